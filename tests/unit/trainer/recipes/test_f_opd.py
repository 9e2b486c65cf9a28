"""f-OPD: f = exp(-(a sqrt(D_roll) + b sqrt(D_sup))) / (lag + 1); the loss of a rollout counts ReLU(f - xi)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch
from preceptor_trainer.parts.weights_aged import Freshness
from tests.unit.trainer.by_hand import gradient, written
from tests.unit.trainer.setting import batch_of, learn, own_logprobs
from tests.unit.trainer.toy import toy_rows, toy_slot

F_OPD = recipes.load("f_opd")
ROWS = toy_rows((4, 2, 6, 3))
SLOT = toy_slot(ROWS, "teacher", seed=4)


def drifted(nats: float, lags: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Batch:
    """A batch whose sampler was so far from the student, alternately above and below, and so many versions old."""
    rows = [replace(row, weights_version=9 - lag) for row, lag in zip(ROWS, lags, strict=True)]
    batch = batch_of(F_OPD, rows, {"teacher": SLOT}, step=10)
    sign_T = 1 - 2.0 * (batch.position_T % 2)
    behaviour = replace(batch.behaviour, logprob_T=batch.behaviour.logprob_T + nats * sign_T)
    return replace(batch, behaviour=behaviour)


def freshness(batch: Batch, weight: Freshness | None = None) -> torch.Tensor:
    """[B] without xi."""
    own = replace(batch.behaviour, logprob_T=written(batch, own_logprobs(batch)))
    part = weight or Freshness(xi=0.0)
    first = [batch.offsets[index] for index in range(4)]
    return part(batch.view(own), batch.slots["teacher"][0].scalars())[first]


def test_a_fresh_rollout_counts_whole_and_a_lag_divides() -> None:
    assert freshness(drifted(0.0)).tolist() == pytest.approx([1.0] * 4)
    assert freshness(drifted(0.0, (0, 1, 3, 9))).tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 10])


def test_freshness_falls_with_each_drift() -> None:
    values = [freshness(drifted(nats)) for nats in (0.0, 0.1, 0.5, 1.0)]
    assert all(bool((less < more).all()) for more, less in pairwise(values))
    batch = drifted(0.0)
    moved = [
        replace(batch, slots={**batch.slots, "then": [replace(SLOT, logprob_T=SLOT.logprob_T + nats)]})
        for nats in (0.0, 0.2, 0.4)
    ]
    found = [float(freshness(each, Freshness(xi=0.0, then="then"))[0]) for each in moved]
    assert found == pytest.approx([torch.tensor(-nats / 2**0.5).exp().item() for nats in (0.0, 0.2, 0.4)])


def test_the_whole_gradient_is_that_of_the_equation() -> None:
    batch = drifted(0.3, (0, 1, 2, 3))
    f_B = freshness(batch)

    def loss(s_TV: torch.Tensor) -> torch.Tensor:
        s_T = written(batch, s_TV)
        rho_T = (s_T - batch.behaviour.logprob_T).exp()
        opd_T = -rho_T * (SLOT.logprob_T - s_T.detach())
        anchor_T = rho_T * rho_T.log() - rho_T + 1
        return (((f_B - 0.05).clamp(min=0)[batch.rollout_T]) * (opd_T + 0.1 * anchor_T)).mean()

    torch.testing.assert_close(learn(F_OPD, batch).grad_TD, gradient(batch, loss), atol=1e-12, rtol=1e-9)


def stale(batch: Batch, weight: Freshness) -> bool:
    own = replace(batch.behaviour, logprob_T=written(batch, own_logprobs(batch)))
    return weight.stale(batch.view(own), batch.slots["teacher"][0].scalars())


def test_what_is_written_ahead_is_written_anew_where_the_batch_is_stale_or_misaligned() -> None:
    fresh, old = drifted(0.0), drifted(0.0, (1, 3, 3, 3))
    mean = float(freshness(old).mean())
    assert not stale(fresh, Freshness()) and not stale(old, Freshness())
    assert stale(old, Freshness(kappa_f=mean)) and not stale(old, Freshness(kappa_f=mean - 1e-6))
    far = drifted(1.5)
    wide: dict[str, Any] = {"kappa_f": 0.0, "kappa_sup": 1.0}
    assert stale(far, Freshness(kappa_roll=0.5, **wide)) and not stale(far, Freshness(kappa_roll=0.0, **wide))
    assert not stale(far, Freshness(kappa_roll=1.0, aligned=3.0, **wide))
    then = replace(SLOT, logprob_T=SLOT.logprob_T + 1.0)
    moved = replace(fresh, slots={**fresh.slots, "then": [then]})
    assert stale(moved, Freshness(then="then")) and not stale(moved, Freshness(then="then", kappa_sup=0.0))


def test_below_the_cut_nothing_is_learned() -> None:
    cut = learn(F_OPD.override({"weights.0.xi": 0.2}), drifted(0.0, (0, 3, 4, 9))).moved_T
    assert cut.tolist() == [True] * 6 + [False] * 9, "1/4 is above 0.2, 1/5 is not"


def test_the_drift_bounds_the_total_variation() -> None:
    """Pinsker: TV <= sqrt(KL / 2), of the exact expectation of what is estimated."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        p, q = (torch.randn(7, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2))
        drift = (q * ((p / q) * (p / q).log() - p / q + 1)).sum()
        torch.testing.assert_close(drift, (p * (p / q).log()).sum())
        assert (p - q).abs().sum() / 2 <= (drift / 2).sqrt()
