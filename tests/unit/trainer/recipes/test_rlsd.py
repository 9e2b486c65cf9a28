"""RLSD: A' = A [(1 - lam) + lam clip((P_T / P_S)^sign(A), 1 - eps, 1 + eps)]."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from preceptor_trainer import recipes
from preceptor_trainer.parts.weights import AnchoredRatio
from preceptor_trainer.views import Verdict
from tests.unit.trainer.by_hand import answering, evidence, group_advantages, pushed, written
from tests.unit.trainer.setting import batch_of, learn, opinion, own_logprobs
from tests.unit.trainer.toy import toy_rows, toy_slot

RLSD = recipes.load("rlsd")
ROWS = toy_rows((4, 2, 6, 3), group=2)


@pytest.mark.parametrize(("step", "lam"), [(1, 1.0), (26, 0.5), (51, 0.0), (900, 0.0)])
def test_the_gradient_is_that_of_the_paper_s_advantage(step: int, lam: float) -> None:
    batch = batch_of(RLSD, ROWS, step=step)
    advantage_T = group_advantages(batch)
    gap_T = evidence(batch, opinion(ROWS, "reference", RLSD.contexts["reference"]))
    ratio_T = (advantage_T.sign() * gap_T).exp().clamp(0.8, 1.2)
    assert 0 < int(((ratio_T > 0.8) & (ratio_T < 1.2)).sum()) < len(ratio_T), "some are clipped, some are not"
    wanted_TD = pushed(batch, advantage_T * ((1 - lam) + lam * ratio_T))
    torch.testing.assert_close(learn(RLSD, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_the_weight_keeps_the_advantage_s_sign_within_its_bounds() -> None:
    batch = batch_of(RLSD, ROWS)
    weight_T = learn(RLSD, batch).plans[0].weight_T[0]
    advantage_T = group_advantages(batch)
    assert torch.equal(weight_T.sign(), advantage_T.sign())
    assert bool((weight_T.abs() <= 1.2 * advantage_T.abs() + 1e-12).all())
    assert bool((weight_T.abs() >= 0.8 * advantage_T.abs() - 1e-12).all())


@pytest.mark.parametrize("sure", [-0.1, 0.0])
def test_more_evidence_is_more_credit_and_less_blame(sure: float) -> None:
    batch = batch_of(RLSD, ROWS)
    slot, own_T = toy_slot(ROWS, "reference"), written(batch, own_logprobs(batch))
    less, more = (batch_of(RLSD, ROWS, {"reference": answering(slot, own_T + sure + by)}) for by in (0.0, 0.1))
    change_T = learn(RLSD, more).plans[0].weight_T[0].abs() - learn(RLSD, less).plans[0].weight_T[0].abs()
    assert torch.equal(change_T.sign(), group_advantages(batch).sign())


def test_where_the_reward_says_nothing_nothing_is_learned() -> None:
    alike = [replace(row, verdict=Verdict(reward=1.0, correct=True)) for row in ROWS]
    assert float(learn(RLSD, batch_of(RLSD, alike)).grad_TD.abs().max()) == 0


def test_a_rollout_without_a_reference_is_grpo_s() -> None:
    slot = toy_slot(ROWS, "reference", seed=3, absent=(0, 2))
    batch = batch_of(RLSD, ROWS, {"reference": slot})
    weight_T, advantage_T = learn(RLSD, batch).plans[0].weight_T[0], group_advantages(batch)
    unheard_T = slot.present_T == 0
    torch.testing.assert_close(weight_T[unheard_T], advantage_T[unheard_T])
    assert not torch.allclose(weight_T[~unheard_T], advantage_T[~unheard_T])


def test_a_ratio_that_could_not_be_meant_is_refused() -> None:
    with pytest.raises(ValidationError, match="both are 'student'"):
        AnchoredRatio(over="student")
    with pytest.raises(ValidationError, match="is not a share"):
        AnchoredRatio(over="reference", mix=1.5)
