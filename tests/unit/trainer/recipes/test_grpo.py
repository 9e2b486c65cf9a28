"""GRPO: the reward's sign is the gradient's, and a group without contrast teaches nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Row
from preceptor_trainer.views import Verdict
from tests.unit.trainer.setting import batch_of, learn, own_logprobs
from tests.unit.trainer.toy import toy_rows, toy_student

RECIPE = recipes.load("grpo")


def rewarded(*rewards: float, length: int = 3) -> list[Row]:
    rows = toy_rows([length] * len(rewards), group=len(rewards))
    return [replace(row, verdict=Verdict(reward=r, correct=r > 0)) for row, r in zip(rows, rewards, strict=True)]


def test_a_group_of_equal_rewards_teaches_nothing() -> None:
    learned = learn(RECIPE, batch_of(RECIPE, rewarded(1.0, 1.0, 1.0, 1.0)))
    assert not learned.moved_T.any()


def test_advantages_sum_to_zero_and_are_in_units_of_the_deviation() -> None:
    rewards = (1.0, 0.0, 0.25, 0.0)
    (plan,) = learn(RECIPE, batch_of(RECIPE, rewarded(*rewards, length=1))).plans
    expected_B = torch.tensor(rewards, dtype=torch.float64)
    expected_B = (expected_B - expected_B.mean()) / (expected_B.std(correction=0) + 1e-6)
    torch.testing.assert_close(plan.weight_T[0], expected_B)
    assert float(plan.weight_T[0].sum()) == pytest.approx(0.0, abs=1e-12)


def test_at_ratio_one_the_gradient_is_minus_advantage_times_that_of_the_logprob() -> None:
    batch = batch_of(RECIPE, rewarded(1.0, 0.0))
    hidden_TD, head = toy_student(6)
    leaf_TD = hidden_TD.requires_grad_()
    logprob_T = (leaf_TD @ head.weight_VD.detach().T).log_softmax(-1).gather(-1, batch.token_T[:, None]).squeeze(-1)
    advantage_T = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(3) * 0.5 / (0.5 + 1e-6)
    (-(advantage_T * logprob_T).sum() / 6).backward()
    torch.testing.assert_close(learn(RECIPE, batch).grad_TD, leaf_TD.grad)


@pytest.mark.parametrize(("gap", "still"), [(0.5, "good"), (-0.5, "bad")])
def test_a_ratio_beyond_the_clip_has_no_gradient_on_its_own_side(gap: float, still: str) -> None:
    """Above 1 + 0.2 where the rollout was good, below 1 - 0.2 where it was bad; the other goes on learning."""
    batch = batch_of(RECIPE, rewarded(1.0, 0.0))
    own_T = own_logprobs(batch).gather(-1, batch.token_T[:, None]).squeeze(-1)
    batch = replace(batch, behaviour=replace(batch.behaviour, logprob_T=own_T - gap))
    moved_T = learn(RECIPE, batch).moved_T
    assert moved_T.tolist() == [still != "good"] * 3 + [still != "bad"] * 3


def test_without_division_by_the_deviation_it_is_dr_grpo_s_advantage() -> None:
    recipe = RECIPE.override(
        {"objective": [{"kind": "policy_gradient", "weights": [{"kind": "group_advantage", "scale": False}]}]}
    )
    (plan,) = learn(recipe, batch_of(recipe, rewarded(1.0, 0.0, length=1))).plans
    assert plan.weight_T[0].tolist() == [0.5, -0.5]
