"""ExOPD: A = lam log T + (1 - lam) log R - log S; q ~ R^(1 - lam) T^lam."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from preceptor.wire.teachers import Support
from preceptor_trainer import recipes
from tests.unit.trainer.by_hand import evidence, gradient, pushed
from tests.unit.trainer.setting import agreeing, batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows, toy_slot

EXOPD = recipes.load("exopd")
WHOLE = EXOPD.override({"objective": [{"kind": "reverse_kl"}]})
ROWS = toy_rows((4, 2, 6, 3))
TEACHER, REFERENCE = (opinion(ROWS, name, EXOPD.contexts[name]) for name in ("teacher", "reference"))


def composed(lam: float) -> Tensor:
    """q [T, V], in probabilities."""
    powers_TV = said(TEACHER).exp() ** lam * said(REFERENCE).exp() ** (1 - lam)
    return powers_TV / powers_TV.sum(-1, keepdim=True)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 1.25])
def test_the_gradient_is_that_of_the_paper_s_advantage(lam: float) -> None:
    exopd = EXOPD.override({"target": {"lam": lam}})
    batch = batch_of(exopd, ROWS)
    advantage_T = lam * evidence(batch, TEACHER) + (1 - lam) * evidence(batch, REFERENCE)
    torch.testing.assert_close(learn(exopd, batch).grad_TD, pushed(batch, advantage_T), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.25])
def test_over_whole_distributions_the_optimum_is_the_extrapolation(lam: float) -> None:
    whole = WHOLE.override({"target": {"lam": lam}})
    batch = batch_of(whole, ROWS)

    def wanted(logprobs_TV: Tensor) -> Tensor:
        return (logprobs_TV.exp() * (logprobs_TV - composed(lam).log())).sum(-1).mean()

    learned = learn(whole, batch)
    torch.testing.assert_close(learned.grad_TD, gradient(batch, wanted), atol=1e-12, rtol=1e-9)


def test_at_one_the_reference_does_not_matter_and_elsewhere_it_does() -> None:
    other = {"reference": toy_slot(ROWS, "reference", seed=77)}
    for lam, same in ((1.0, True), (1.25, False)):
        exopd = EXOPD.override({"target": {"lam": lam}})
        one, two = (learn(exopd, batch_of(exopd, ROWS, slots)).grad_TD for slots in ({}, other))
        assert torch.allclose(one, two, atol=1e-12) is same


def test_a_student_that_is_both_models_learns_nothing() -> None:
    batch = batch_of(EXOPD, ROWS)
    both = {name: agreeing(slot, batch) for name, slot in (("teacher", TEACHER), ("reference", REFERENCE))}
    assert float(learn(EXOPD, batch_of(EXOPD, ROWS, both)).grad_TD.abs().max()) < 1e-12


def test_the_ratio_to_the_sampler_is_truncated_at_five() -> None:
    batch = batch_of(EXOPD, ROWS, on_policy=False)
    ratio_T = (evidence(batch, TEACHER) * -1 + TEACHER.logprob_T - batch.behaviour.logprob_T).exp()
    advantage_T = 1.25 * evidence(batch, TEACHER) - 0.25 * evidence(batch, REFERENCE)
    wanted_TD = pushed(batch, ratio_T.clamp(max=5.0) * advantage_T)
    torch.testing.assert_close(learn(EXOPD, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_it_asks_for_no_more_than_the_written_token() -> None:
    assert EXOPD.support is Support.SAMPLED and WHOLE.support is Support.TOPK


def test_a_lam_over_the_guard_has_to_be_meant() -> None:
    with pytest.raises(ValidationError, match="over the guard"):
        EXOPD.override({"target": {"lam": 2.0}})
    assert EXOPD.override({"target": {"lam": 2.0, "guard": 2.0}}).target is not None
