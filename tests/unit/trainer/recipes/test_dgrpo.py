"""dGRPO: reward and teacher add up; groups without contrast still hear the teacher."""

from __future__ import annotations

from dataclasses import replace

import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import Verdict
from tests.unit.trainer.setting import batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows, toy_student

RECIPE = recipes.load("dgrpo")
ADVANTAGE = {"kind": "policy_gradient", "weights": [{"kind": "group_advantage"}]}


def test_a_group_without_contrast_learns_what_the_teacher_says() -> None:
    rows = [replace(row, verdict=Verdict(reward=0.0, correct=False)) for row in toy_rows((3, 3), group=2)]
    batch = batch_of(RECIPE, rows)
    learned = learn(RECIPE, batch)
    s_TV, t_TV = own_logprobs(batch), said(batch.slots["teacher"][0])
    kl_T = (s_TV.exp() * (s_TV - t_TV)).sum(-1, keepdim=True)
    on_logits = 0.5 * s_TV.exp() * (s_TV - t_TV - kl_T) / 6
    torch.testing.assert_close(learned.grad_TD, on_logits @ toy_student(6)[1].weight_VD.detach())


def test_the_terms_add_up() -> None:
    rows = toy_rows((4, 2, 3, 5), group=2)
    alone = [RECIPE.override({"objective": [term]}) for term in (ADVANTAGE, {"kind": "reverse_kl", "coefficient": 0.5})]
    parts = [learn(each, batch_of(each, rows)).grad_TD for each in alone]
    torch.testing.assert_close(learn(RECIPE, batch_of(RECIPE, rows)).grad_TD, parts[0] + parts[1])


def test_every_rollout_counts_alike_however_long() -> None:
    (plan, _) = learn(RECIPE, batch_of(RECIPE, toy_rows((4, 2), group=2))).plans
    assert plan.denominator == 2
    torch.testing.assert_close(plan.weight_T[0][:4].sum(), -plan.weight_T[0][4:].sum())
