"""Every claim of a recipe to become another is held to it: the same rollouts are asked for, and the real loss makes the
same of them.

Rollouts are as the sampler wrote them, by the student that learns from them: the ratio of the two is 1.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Row
from preceptor_trainer.recipe import Recipe, Reduces
from preceptor_trainer.views import Plan, PlanView
from tests.unit.trainer.doubles import ToyData
from tests.unit.trainer.setting import Learned, batch_of, learn, own_logprobs
from tests.unit.trainer.toy import V, toy_rows

LENGTHS = (4, 2, 6, 3)
CLAIMS = [
    pytest.param(name, claim, id=f"{name}-{index}-{claim.to}")
    for name in recipes.names()
    for index, claim in enumerate(recipes.load(name).reduces)
]


def sides(name: str, claim: Reduces) -> tuple[Recipe, Recipe]:
    """The recipe as it becomes the other, and the other."""
    return recipes.load(name).override(claim.when), recipes.load(claim.to).override(claim.given)


def planned(recipe: Recipe, step: int, index: int) -> tuple[Plan, int]:
    (task,) = ToyData().train(step, 1, 0)
    plan = recipe.rollout.plan(PlanView(task=task, index=index, step=step, rng=Random(f"{step}/{index}")))
    return replace(plan, max_tokens=None), min(plan.max_tokens or recipe.rollout.max_tokens, recipe.rollout.max_tokens)


def all_planned(recipe: Recipe) -> list[tuple[Plan, int]]:
    return [planned(recipe, step, index) for step in (1, 2, 50, 1000) for index in range(4)]


def in_expectation(recipe: Recipe, seed: int) -> Learned:
    """The mean over every token that the student could have written, of a rollout of one token."""
    (first,) = toy_rows((1,), seed=seed)
    share_V = own_logprobs(batch_of(recipe, [first]))[0].exp()
    rows = [replace(first, completion_ids=(token,), logprobs=(0.0,)) for token in range(V)]
    each = [learn(recipe, batch_of(recipe, [row])) for row in rows]
    total = [sum(share * getattr(one, name) for share, one in zip(share_V, each, strict=True)) for name in GRADIENTS]
    return replace(each[0], **dict(zip(GRADIENTS, total, strict=True)))


GRADIENTS = ("grad_TD", "grad_VD")


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_the_same_rollouts_are_asked_for(name: str, claim: Reduces) -> None:
    one, other = sides(name, claim)
    assert all_planned(one) == all_planned(other)


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_the_real_loss_makes_the_same_of_them(name: str, claim: Reduces, step: int) -> None:
    rows: list[Row] = [replace(row, weights_version=step - 1) for row in toy_rows(LENGTHS, group=2, seed=step)]
    one, other = sides(name, claim)
    if claim.up_to == "expectation":
        ours, theirs = in_expectation(one, step), in_expectation(other, step)
    else:
        ours, theirs = (learn(each, batch_of(each, rows, step=step)) for each in (one, other))
    assert theirs.grad_TD.abs().max() > 1e-3, "nothing is learned, so nothing is shown"
    scale = 1.0
    if claim.up_to == "scale":
        scale = float((ours.grad_TD * theirs.grad_TD).sum() / theirs.grad_TD.square().sum())
        assert scale > 1e-6, "a scale is positive"
    for which in GRADIENTS:
        torch.testing.assert_close(getattr(ours, which), scale * getattr(theirs, which), atol=1e-9, rtol=1e-9)
    if claim.up_to in ("equal", "scale"):
        assert ours.loss == pytest.approx(scale * theirs.loss, abs=1e-9)


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_without_its_overrides_a_recipe_is_another(name: str, claim: Reduces) -> None:
    """A claim that held of anything would say nothing."""
    one, other = recipes.load(name), recipes.load(claim.to).override(claim.given)
    if all_planned(one) != all_planned(other) or one.contexts.keys() != other.contexts.keys():
        return
    rows = toy_rows(LENGTHS, group=2)
    ours, theirs = (learn(each, batch_of(each, rows)).grad_TD for each in (one, other))
    assert not torch.allclose(ours, theirs, atol=1e-6)
