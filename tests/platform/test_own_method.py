"""The guide `docs/your-own-method.md`, typed as it stands: a stranger's file becomes a run."""

from __future__ import annotations

import re
import shlex

import pytest

from preceptor.client import Client
from preceptor.wire.runs import RunState
from tests.platform.stack import ROOT, TRAINING, Stack
from tests.platform.test_cli import say
from tests.unit.test_own_method import GUIDE, write_guides_recipe

SHORTER = [f"--set=training.{name}={value}" for name, value in TRAINING.items()]
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("preceptor recipes", "preceptor runs"))
]


def test_the_guide_does_what_it_says(stack: Stack, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # its commands name models/tiny
    name = write_guides_recipe(stack.recipes)
    stack.worker()
    show, two_steps, whole = COMMANDS
    assert "Nats from which on a token counts fully." in " ".join(say(stack, *show).split())
    listed = {each.name: each for each in client.recipes.list()}[name]
    assert listed.origin == str(stack.recipes / f"{name}.py")
    say(stack, *two_steps)
    say(stack, *whole, *SHORTER)
    later, first = [run for run in client.runs.list() if run.recipe == name]
    assert [first.state, later.state] == [RunState.SUCCEEDED] * 2
    assert (first.step, later.step) == (2, TRAINING["steps"])
    assert later.resolved["weights"] == [{"kind": "surprise", "scale": 0.5}]
    assert later.resolved["rollout"]["temperature"] == 0.9
    refused = say(stack, *whole, "--set", "weights.0.skale=1", code=2)
    assert "weights.0.skale" in refused and "Did you mean scale?" in refused
