"""RLRT: RLSD's ratio upside down, on correct rollouts only."""

from __future__ import annotations

from dataclasses import replace

import torch

from preceptor_trainer import recipes
from preceptor_trainer.parts.weights import AnchoredRatio
from preceptor_trainer.views import Scalars
from tests.unit.trainer.by_hand import evidence, group_advantages, pushed
from tests.unit.trainer.setting import batch_of, learn, opinion, own_logprobs
from tests.unit.trainer.toy import toy_rows

RLRT = recipes.load("rlrt")
ROWS = toy_rows((4, 2, 6, 3), group=2)


def test_the_gradient_is_that_of_the_paper_s_advantage() -> None:
    batch = batch_of(RLRT, ROWS)
    advantage_T, right_T = group_advantages(batch), batch.reward_B[batch.rollout_T] == 1
    gap_T = -evidence(batch, opinion(ROWS, "peer", RLRT.contexts["peer"]))
    ratio_T = (advantage_T.sign() * gap_T).exp().clamp(0.5, 1.5)
    wanted_TD = pushed(batch, advantage_T * torch.where(right_T, 0.5 + 0.5 * ratio_T, torch.ones_like(ratio_T)))
    torch.testing.assert_close(learn(RLRT, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_failures_keep_their_advantage_unless_the_gate_is_opened() -> None:
    batch = batch_of(RLRT, ROWS)
    advantage_T, wrong_T = group_advantages(batch), batch.reward_B[batch.rollout_T] == 0
    weight_T = learn(RLRT, batch).plans[0].weight_T[0]
    assert torch.equal(weight_T[wrong_T], advantage_T[wrong_T])
    assert not torch.allclose(weight_T[~wrong_T], advantage_T[~wrong_T])
    opened = RLRT.override({"weights": [{**RLRT.weights[0].model_dump(), "least_reward": None}]})
    assert not torch.allclose(learn(opened, batch).plans[0].weight_T[0][wrong_T], advantage_T[wrong_T])


def test_before_any_clip_it_is_one_over_rlsd_s() -> None:
    batch = batch_of(RLRT, ROWS)
    logprob_T = own_logprobs(batch).gather(-1, batch.token_T[:, None]).squeeze(-1)
    ones_T = torch.ones_like(logprob_T)
    student = Scalars(logprob_T=logprob_T, present_T=ones_T, weight_T=ones_T)
    view = batch.view(student)
    near = {"peer": [Scalars(logprob_T=logprob_T + 0.2 * ones_T.cumsum(0).sin(), present_T=ones_T, weight_T=ones_T)]}
    view = replace(view, contexts=near)
    rebel = AnchoredRatio(over="student", under="peer", epsilon=1.0)(view, student)
    obedient = AnchoredRatio(over="peer", under="student", epsilon=1.0)(view, student)
    torch.testing.assert_close(rebel * obedient, group_advantages(batch).square(), atol=1e-12, rtol=1e-12)
