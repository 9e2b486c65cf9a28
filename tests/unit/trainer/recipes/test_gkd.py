"""GKD: who writes, and what the divergence is at its ends."""

from __future__ import annotations

from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import Message, PlanView, Task
from tests.unit.trainer.setting import agreeing, batch_of, learn
from tests.unit.trainer.toy import toy_rows

RECIPE = recipes.load("gkd")
TASK = Task(id="t", messages=(Message(role="user", content="1+1?"),), reference="It is 2.")


def sources(share: float, task: Task = TASK) -> list[str]:
    policy = RECIPE.override({"rollout": {"share": share}}).rollout
    views = [PlanView(task=task, index=index, step=1, rng=Random(index)) for index in range(400)]
    return [policy.plan(view).source for view in views]


def test_lambda_0_never_samples_and_1_always_does() -> None:
    assert set(sources(0.0)) == {"dataset"}
    assert set(sources(1.0)) == {"student"}
    assert set(sources(1.0, Task(id="t", messages=TASK.messages))) == {"student"}


def test_lambda_is_the_student_s_share() -> None:
    assert sources(0.25).count("student") == pytest.approx(100, abs=30)


def test_a_given_rollout_is_the_reference_and_needs_one() -> None:
    policy = RECIPE.override({"rollout": {"share": 0.0}}).rollout
    plan = policy.plan(PlanView(task=TASK, index=0, step=1, rng=Random(0)))
    assert plan.completion == "It is 2."
    bare = Task(id="t", messages=TASK.messages)
    with pytest.raises(ValueError, match="has no reference to learn from"):
        policy.plan(PlanView(task=bare, index=0, step=1, rng=Random(0)))


def test_a_teacher_that_agrees_teaches_nothing() -> None:
    rows = toy_rows((3, 4))
    batch = batch_of(RECIPE, rows)
    slots = {"teacher": agreeing(batch.slots["teacher"][0], batch)}
    learned = learn(RECIPE, batch_of(RECIPE, rows, slots))
    assert abs(learned.loss) < 1e-14 and learned.grad_TD.abs().max() < 1e-14


@pytest.mark.parametrize(("beta", "kind", "share"), [(1e-9, "forward_kl", 1e-9), (1 - 1e-9, "reverse_kl", 1e-9)])
def test_near_its_ends_the_divergence_is_a_share_of_a_kl(beta: float, kind: str, share: float) -> None:
    rows = toy_rows((3, 4))
    near = RECIPE.override({"objective": [{"kind": "jsd", "beta": beta}]})
    end = RECIPE.override({"objective": [{"kind": kind}]})
    ours, limit = (learn(each, batch_of(each, rows)) for each in (near, end))
    assert ours.loss / share == pytest.approx(limit.loss, rel=1e-3)
    torch.testing.assert_close(ours.grad_TD / share, limit.grad_TD, rtol=1e-3, atol=1e-5)
