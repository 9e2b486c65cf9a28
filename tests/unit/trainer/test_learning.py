"""The shipped model really learns, and it learns from what the context says: right content, none, wrong content."""

from __future__ import annotations

from pathlib import Path

import pytest

from preceptor.wire.data import TaskSource
from preceptor.wire.runs import RunResult
from preceptor_trainer import recipes
from preceptor_trainer.data import open_data
from preceptor_trainer.loop import train
from preceptor_trainer.model import load_model
from tests.unit.trainer.doubles import LocalScorer, Remembering, toy_run

TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"
ARMS: dict[str, dict[str, object]] = {
    "right": {"kind": "reference"},
    "none": {"kind": "plain"},
    "wrong": {"kind": "reference", "wrong": True},
}


def arm(name: str, work: Path) -> RunResult:
    recipe = recipes.load("opsd").override(
        {"rollout": {"max_tokens": 24}, "contexts": {"reference": {"teacher": "self", **ARMS[name]}}}
    )
    run = toy_run(recipe, steps=16, batch=48, evaluate_items=200, evaluate_every=16, checkpoint_every=16)
    data = open_data(TaskSource(task="spell_backward"))
    ended = train(run, TINY, data, LocalScorer({"self": load_model(TINY)}), Remembering(), work)
    assert ended.result is not None
    return ended.result


@pytest.mark.slow
def test_the_right_reference_teaches(tmp_path: Path) -> None:
    result = arm("right", tmp_path)
    assert result.gain >= 0.3
    assert result.ci95[0] > 0


@pytest.mark.slow
def test_no_reference_teaches_nothing(tmp_path: Path) -> None:
    assert abs(arm("none", tmp_path).gain) <= 0.12, "twice what 200 questions leave open"


@pytest.mark.slow
def test_a_wrong_reference_misleads(tmp_path: Path) -> None:
    assert arm("wrong", tmp_path).ci95[1] < 0
