"""PACED: w = p^a (1 - p)^b over its batch mean; forward KL, then reverse KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Row
from preceptor_trainer.parts.weights import Frontier
from preceptor_trainer.views import Verdict
from tests.unit.trainer import reference as ref
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.setting import batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows

PACED = recipes.load("paced")


def rewarded(rewards: Sequence[float]) -> list[Row]:
    """Groups of four."""
    rows = toy_rows([3] * len(rewards), group=4)
    return [replace(row, verdict=Verdict(reward=r, correct=r == 1)) for row, r in zip(rows, rewards, strict=True)]


MIXED = rewarded((1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0))
"""Pass rates 1/4, 1/2, 3/4, 1, 0."""


def weights(a: float = 1.0, b: float = 1.0, normalise: bool = True) -> list[float]:
    """By task."""
    batch = batch_of(PACED, MIXED)
    weight_T = Frontier(a=a, b=b, normalise=normalise)(batch.view(batch.behaviour), batch.behaviour)
    return [float(weight_T[12 * task]) for task in range(5)]


def test_the_frontier_is_symmetric_largest_at_a_half_and_nothing_at_the_ends() -> None:
    assert weights(normalise=False) == pytest.approx([3 / 16, 1 / 4, 3 / 16, 0, 0])
    assert weights(a=0.5, b=0.5, normalise=False) == pytest.approx([3**0.5 / 4, 1 / 2, 3**0.5 / 4, 0, 0])
    assert weights(a=0.0, b=0.0) == pytest.approx([1, 1, 1, 1, 1])


def test_normalised_weights_keep_the_scale_of_the_loss() -> None:
    assert sum(weights()) / 5 == pytest.approx(1.0)
    assert weights()[0] / weights()[1] == pytest.approx(3 / 4)


@pytest.mark.parametrize(("step", "first"), [(1, True), (100, True), (101, False), (900, False)])
def test_coverage_first_then_precision_switched_at_the_step(step: int, first: bool) -> None:
    batch = batch_of(PACED, MIXED, step=step)
    t_TV = said(opinion(MIXED, "teacher", PACED.contexts["teacher"])).exp()
    weight_T = torch.tensor(weights(), dtype=torch.float64).repeat_interleave(12)

    def wanted(logprobs_TV: torch.Tensor) -> torch.Tensor:
        s_TV = logprobs_TV.exp()
        return (weight_T * (ref.kl(t_TV, s_TV) if first else ref.kl(s_TV, t_TV))).mean()

    learned = learn(PACED, batch)
    torch.testing.assert_close(learned.grad_TD, gradient(batch, wanted), atol=1e-12, rtol=1e-9)
    assert torch.equal(learned.moved_T, weight_T > 0)


def test_a_batch_of_tasks_at_the_ends_moves_nothing() -> None:
    rows = rewarded((1, 1, 1, 1, 0, 0, 0, 0))
    learned = learn(PACED, batch_of(PACED, rows))
    assert float(learned.grad_TD.abs().max()) == 0 and learned.loss == 0
