"""beta-OPSD: the target is the mixture of logits, between the plain view and the informed one."""

from __future__ import annotations

import torch

from preceptor_trainer import recipes
from preceptor_trainer.parts.targets import LogLinear
from tests.unit.trainer.setting import agreeing, batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows, toy_student

RECIPE = recipes.load("beta_opsd")
ROWS = toy_rows((4, 3))


def test_the_target_is_the_mixture_of_logits() -> None:
    """By the forward KL's gradient, S - q, on the logits."""
    recipe = RECIPE.override(
        {"objective": [{"kind": "forward_kl"}], "target": {"coefficients": {"reference": 0.3, "plain": 0.7}}}
    )
    batch = batch_of(recipe, ROWS)
    q_TV = (0.3 * said(batch.slots["reference"][0]) + 0.7 * said(batch.slots["plain"][0])).softmax(-1)
    on_logits = (own_logprobs(batch).exp() - q_TV) / 7
    torch.testing.assert_close(learn(recipe, batch).grad_TD, on_logits @ toy_student(7)[1].weight_VD.detach())


def test_a_live_plain_view_alone_teaches_nothing() -> None:
    recipe = RECIPE.override({"target": {"coefficients": {"reference": 0.0, "plain": 0.0, "student": 1.0}}})
    learned = learn(recipe, batch_of(recipe, ROWS))
    assert learned.grad_TD.abs().max() < 1e-14


def test_the_student_s_own_view_is_what_a_teacher_that_agrees_says() -> None:
    live = RECIPE.model_copy(update={"target": LogLinear(coefficients={"reference": 0.5, "student": 0.5})})
    batch = batch_of(RECIPE, ROWS)
    asked = batch_of(RECIPE, ROWS, {"plain": agreeing(batch.slots["plain"][0], batch)})
    torch.testing.assert_close(learn(live, batch).grad_TD, learn(RECIPE, asked).grad_TD)


def test_w_may_fall_with_the_step() -> None:
    fall, rise = ({"kind": "linear", "start": 0.5, "end": end, "steps": 10} for end in (0.0, 1.0))
    recipe = RECIPE.override({"target": {"coefficients": {"reference": fall, "plain": rise}}})
    for step, w in ((1, 0.5), (6, 0.25), (99, 0.0)):
        fixed = RECIPE.override({"target": {"coefficients": {"reference": w, "plain": 1 - w}}})
        ours, theirs = (learn(each, batch_of(each, ROWS, step=step)) for each in (recipe, fixed))
        torch.testing.assert_close(ours.grad_TD, theirs.grad_TD)
