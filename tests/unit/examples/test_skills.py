"""The skills example: what it asks for is a run that Preceptor takes, and its verdict is what its numbers say."""

from __future__ import annotations

import argparse
import io
import json

import pytest
from rich.console import Console

from examples.skills import __main__ as example
from preceptor_trainer import recipes

OPTIONS = argparse.Namespace(seed=0, steps=3, items=8)
STATE = {"kind": "skill_bank", "cold_start": 4, "guide": {"kind": "demonstration"}}


@pytest.mark.parametrize(("state", "roles"), [(None, {"self"}), (STATE, {"self", "extractor"})])
def test_a_run_shows_the_best_skill_and_asks_whom_it_needs(state: dict[str, object] | None, roles: set[str]) -> None:
    wish = example.wish("sha256:" + "0" * 64, "x", OPTIONS, 3, "codes@1", state, wrong=state is None)
    recipe = recipes.load(wish.recipe).override(wish.overrides)
    assert recipe.roles == roles == wish.teachers.keys()
    (context,) = recipe.contexts.values()
    assert "{mistake}" not in context.model_dump()["template"] and context.model_dump()["wrong"] is (state is None)
    assert recipe.weights == () and recipe.rollout.max_tokens == 13


@pytest.mark.parametrize(
    ("before", "after", "code"), [(0, 95, 0), (0, 76, 1), (20, 95, 1), (0, 30, 1)], ids=["yes", "near", "knew", "no"]
)
def test_the_verdict_is_of_intervals(capsys: pytest.CaptureFixture[str], before: int, after: int, code: int) -> None:
    def right(count: int) -> list[bool]:
        return [True] * count + [False] * (100 - count)

    hits = {
        example.BASE: right(before),
        example.SHOWN: right(94),
        example.STUDENT: right(after),
        example.WRONG: right(0),
    }
    out = io.StringIO()
    assert example.verdict(hits, 12.3, Console(file=out, width=100, color_system=None)) == code
    assert ("did NOT learn" in out.getvalue()) is bool(code) and out.getvalue().count("●") == 4
    last = json.loads(capsys.readouterr().out)
    assert last["learned"] is (code == 0) and last[example.STUDENT]["skill_code"]["n"] == 100
