"""The tutor example: students made from what a pair of them says and reads, and nothing that gives an answer away."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from pathlib import Path
from random import Random
from typing import cast

import pytest
from rich.console import Console

from examples.tutor import __main__ as example
from examples.tutor import lessons
from preceptor.wire.codistillations import FeedbackGiven, Record, SideRecord
from preceptor_trainer import recipes
from preceptor_trainer.standing import WHOLE, Seen, Standing
from preceptor_trainer.views import ContextView, Rollout, Task, Verdict

TASKS = lessons.TASK.model_validate({}).take("train", 20, "lessons")
BETTER = {WHOLE: Standing(own=Seen(0, 40), peer=Seen(40, 0))}


def view(task: Task, **replies: str) -> ContextView:
    own = Rollout(index=0, text="xyz", verdict=Verdict(reward=0.0, correct=False))
    return ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0), replies=replies, standing=BETTER)


def rows(path: Path) -> dict[str, str]:
    return {row["prompt"]: row["reference"] for row in map(json.loads, path.read_text().splitlines())}


def test_a_tutor_is_taught_to_answer_what_a_pair_asks(tmp_path: Path) -> None:
    taught = rows(lessons.tutor(tmp_path / "tutor.jsonl", len(TASKS)))
    assert len(taught) == 2 * len(TASKS)
    for task in TASKS:
        assert taught[task.messages[-1]["content"]] == task.answer
        (ask,) = lessons.CONTEXT.asks(view(task))
        before, after = ask.messages[0]["content"].split("xyz")
        (reply,) = [said for prompt, said in taught.items() if prompt.startswith(before) and prompt.endswith(after)]
        kept = lessons.CONTEXT.read(view(task), "feedback", reply)
        assert kept == lessons.feedback(task), "nothing of it is off the question or says the answer"
        assert cast(str, task.answer) not in kept


def test_a_pupil_is_taught_to_read_what_a_pair_shows(tmp_path: Path) -> None:
    taught = rows(lessons.reader(tmp_path / "pupil.jsonl", len(TASKS)))
    recipe = recipes.load("opcod").override({"contexts": {"tutored": {**lessons.WORDS, "kind": "better_tutor"}}})
    for task in TASKS:
        seen = view(task, feedback=lessons.feedback(task))
        (prompt,) = recipe.contexts["tutored"].prompts(seen)
        assert taught.pop(prompt.messages[0]["content"]) == task.answer
    assert not taught, "and nothing without feedback"


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("wrong", [False, True])
def test_the_verdict_is_what_the_numbers_say(learned: bool, wrong: bool, capsys: pytest.CaptureFixture[str]) -> None:
    side = SideRecord(
        run="run",
        name="pupil",
        accuracy=(),
        gates=(),
        heard=(),
        feedback=(FeedbackGiven(domain=WHOLE, rollouts=7),),
        unreadable=2,
        largest_lag=None,
        alone=(),
        waited_seconds=0.0,
        unpublished=(),
    )
    before, after = [False] * 40, [learned] * 30 + [False] * 10
    grid = {name: {example.TASK: before} for name in ("tutor before", "tutor after", "pupil before")}
    grid["pupil after"] = {example.TASK: after}
    options = Namespace(wrong=wrong, seed=0, steps=3)
    console = Console(file=io.StringIO(), width=200)
    code = example.verdict(grid, Record(id="pair", a=side, b=side), options, 1.0, console)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if learned is not wrong else 1) and last["good"] is (learned is not wrong)
    assert (last["feedback"], last["unreadable"]) == (7, 2)
