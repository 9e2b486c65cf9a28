"""Two ranks of real processes give what one gives: the same losses, evaluations and weights, whatever the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor_trainer.model import load_model
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import weights_of
from tests.unit.trainer.ranked import Told, go

LOSS = 1e-5
"""By which losses of some steps may differ, relative: additions in another order, in float32."""
WEIGHTS = 2e-5
"""The same of weights, absolute, after some steps of AdamW at 1e-3."""

WEIGHED: dict[str, Any] = {
    "rollout": {"samples": 2, "max_tokens": 8},
    "objective": [
        {"kind": "jsd", "beta": 0.5, "weights": [{"kind": "importance_truncate", "most": 1.5}]},
        {"kind": "sampled_reverse_kl", "coefficient": 0.3, "weights": [{"kind": "group_advantage"}]},
    ],
}
"""Two terms, with weights that look at the whole batch."""
SETTINGS: dict[str, Any] = {"steps": 3, "batch": 3, "learning_rate": 1e-3, "warmup_steps": 0, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def same(one: Told, two: Told) -> None:
    assert [each.step for each in two.steps] == [each.step for each in one.steps]
    for mine, theirs in zip(one.steps, two.steps, strict=True):
        for name in ("loss", "grad_norm", "student_entropy", "completion_length", "repetition", "reward"):
            assert theirs.metrics[name] == pytest.approx(mine.metrics[name], rel=LOSS, abs=1e-6), name
        assert theirs.ledger.tokens["completion"] == mine.ledger.tokens["completion"]
        assert theirs.ledger.scored_sequences == mine.ledger.scored_sequences
    for mine, theirs in zip(one.evaluations, two.evaluations, strict=True):
        assert (theirs.step, theirs.hits, theirs.mean_length) == (mine.step, mine.hits, mine.mean_length)
        assert theirs.entropy == pytest.approx(mine.entropy, rel=1e-4)
    assert one.model is not None and two.model is not None
    first, second = weights_of(load_model(one.model)), weights_of(load_model(two.model))
    torch.testing.assert_close(second, first, atol=WEIGHTS, rtol=0)


def test_two_ranks_give_the_curve_of_one(folder: Path, tmp_path: Path) -> None:
    one, two = (go(ranks, folder, tmp_path / str(ranks), "opsd", WEIGHED, **SETTINGS) for ranks in (1, 2))
    same(one, two)
