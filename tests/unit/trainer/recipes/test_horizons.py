"""TOPD and POPD: what the horizon is, and that it changes nothing within."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.views import Message, PlanView, Task
from tests.unit.trainer.setting import batch_of, learn
from tests.unit.trainer.toy import toy_rows, toy_student

TOPD, POPD = recipes.load("topd"), recipes.load("popd")
TASK = Task(id="t", messages=(Message(role="user", content="1+1?"),))


def horizon(recipe: Recipe, step: int) -> int:
    plan = recipe.rollout.plan(PlanView(task=TASK, index=0, step=step, rng=Random(0)))
    assert plan.max_tokens is not None
    return plan.max_tokens


def test_truncated_for_good() -> None:
    assert [horizon(TOPD, step) for step in (1, 10, 1000)] == [32, 32, 32]
    assert TOPD.rollout.max_tokens == 128, "it is evaluated at its full length"


@pytest.mark.parametrize(("share", "tokens"), [(1.0, 128), (0.1, 13), (0.001, 1), (7.0, 128)])
def test_a_horizon_is_one_token_at_least_and_all_at_most(share: float, tokens: int) -> None:
    assert horizon(TOPD.override({"rollout": {"share": share}}), 1) == tokens


def test_a_growing_horizon_grows_in_stages_and_is_capped() -> None:
    seen = [horizon(POPD, step) for step in range(1, 200)]
    assert seen[:25] == [32] * 25 and seen[25] == 64 and seen[50] == 96 and seen[75:] == [128] * 124
    assert all(one <= next_one for one, next_one in pairwise(seen))


@pytest.mark.parametrize("recipe", [TOPD, POPD], ids=["topd", "popd"])
def test_within_the_horizon_a_token_learns_as_it_does_in_opd(recipe: Recipe) -> None:
    """The same rollouts whole and cut: token by token the same gradient, but for the number they are divided by."""
    whole = toy_rows((6, 5))
    cut = [
        replace(row, completion_ids=row.completion_ids[:3], logprobs=row.logprobs[:3]) for row in whole if row.logprobs
    ]
    opd = recipes.load("opd")
    long, short = batch_of(opd, whole, on_policy=False), batch_of(recipe, cut, on_policy=False)
    inside_T = long.position_T < 3
    slot = long.slots["teacher"][0]
    assert slot.hidden_TD is not None
    narrowed = replace(
        slot,
        hidden_TD=slot.hidden_TD[inside_T],
        logprob_T=slot.logprob_T[inside_T],
        present_T=slot.present_T[inside_T],
        weight_T=slot.weight_T[inside_T],
    )
    hidden_TD, head = toy_student(11)
    full_TD = learn(opd, long, (hidden_TD, head)).grad_TD
    part_TD = learn(recipe, replace(short, slots={"teacher": [narrowed]}), (hidden_TD[inside_T], head)).grad_TD
    assert part_TD.abs().max() > 1e-3
    torch.testing.assert_close(11 * full_TD[inside_T], 6 * part_TD)
