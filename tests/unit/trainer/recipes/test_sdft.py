"""SDFT: the first tokens are left out, and the demonstration is for the teacher alone."""

from __future__ import annotations

from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, PlanView, Rollout, Task
from tests.unit.trainer.setting import agreeing, batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows, toy_student

RECIPE = recipes.load("sdft")
TASK = Task(id="t", messages=(Message(role="user", content="1+1?"),), columns={"demonstration": "2, of course"})


def test_the_first_tokens_have_no_gradient_and_do_not_count() -> None:
    learned = learn(RECIPE, batch_of(RECIPE, toy_rows((5, 2, 4))))
    assert learned.moved_T.tolist() == [False] * 3 + [True] * 2 + [False] * 2 + [False] * 3 + [True]
    assert learned.plans[0].denominator == 3


def test_its_gradient_is_that_of_the_cross_entropy_with_the_teacher() -> None:
    """CE(T, S) = KL(T || S) + H(T)."""
    batch = batch_of(RECIPE, toy_rows((5,)))
    hidden_TD, head = toy_student(5)
    leaf_TD = hidden_TD.requires_grad_()
    logprobs_TV = (leaf_TD @ head.weight_VD.detach().T).log_softmax(-1)
    (-(said(batch.slots["demonstration"][0]).exp() * logprobs_TV).sum(-1)[3:].sum() / 2).backward()
    torch.testing.assert_close(learn(RECIPE, batch).grad_TD, leaf_TD.grad)


def test_a_demonstration_that_says_nothing_teaches_nothing() -> None:
    rows = toy_rows((5, 6))
    batch = batch_of(RECIPE, rows)
    same = {"demonstration": agreeing(batch.slots["demonstration"][0], batch)}
    assert learn(RECIPE, batch_of(RECIPE, rows, same)).grad_TD.abs().max() < 1e-14


def test_an_unlikely_writer_counts_at_most_twice() -> None:
    batch = batch_of(RECIPE, toy_rows((9,)), on_policy=False)
    own_T = own_logprobs(batch).gather(-1, batch.token_T[:, None]).squeeze(-1)
    ratio_T = (own_T - batch.behaviour.logprob_T).exp()
    (plan,) = learn(RECIPE, batch).plans
    torch.testing.assert_close(plan.weight_T[0][3:], ratio_T.clamp(max=2.0)[3:])


def test_the_demonstration_is_shown_to_the_teacher_alone() -> None:
    plan = RECIPE.rollout.plan(PlanView(task=TASK, index=0, step=1, rng=Random(0)))
    assert plan.turns[0].messages == TASK.messages and plan.behaviour is None
    own = Rollout(index=0, text="3")
    view = ContextView(task=TASK, rollout=own, group=(own,), step=1, rng=Random(0))
    (prompt,) = RECIPE.contexts["demonstration"].prompts(view)
    assert "2, of course" in prompt.messages[-1]["content"]


def test_the_teacher_follows_by_one_in_a_hundred_or_not_at_all() -> None:
    assert RECIPE.teacher.decay_after(1) == pytest.approx(0.99)
    assert RECIPE.override({"teacher": {"kind": "frozen"}}).teacher.decay_after(1) is None
