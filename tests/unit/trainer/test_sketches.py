"""The interface says what the papers say: methods that are no recipes yet are written down against it, and run."""

from __future__ import annotations

import pytest
import torch

from preceptor_trainer.loss import first_pass, fold
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.weighing import weigh
from tests.unit.trainer.sketches import sgsd
from tests.unit.trainer.toy import toy_batch, toy_rows, toy_slot, toy_student

RECIPES = {module.__name__.rsplit(".", 1)[1]: module.RECIPE for module in (sgsd,)}
FANS = {"skills": 3}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_the_wire(name: str) -> None:
    assert Recipe.model_validate_json(RECIPES[name].model_dump_json()) == RECIPES[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_through_the_real_loss(name: str) -> None:
    recipe = RECIPES[name]
    rows = toy_rows((4, 2, 6, 3), group=2)
    slots = [
        toy_slot(rows, context, seed=17 * index + k, weight=1 / FANS.get(context, 1))
        for index, context in enumerate(recipe.contexts)
        for k in range(FANS.get(context, 1))
    ]
    batch = toy_batch(rows, *slots)
    hidden_TD, head = toy_student(batch.tokens)
    student, opinions = first_pass(recipe, batch, head, hidden_TD)
    seen = batch.view(student)
    plans = weigh(recipe, seen, opinions)
    whole, sums = fold(recipe, batch, seen, plans, head, hidden_TD, 0)
    assert torch.isfinite(whole).all() and whole.abs().max() > 0
    cut, again = fold(recipe, batch, seen, plans, head, hidden_TD, 0, block_tokens=2)
    torch.testing.assert_close(cut, whole, atol=1e-12, rtol=0)
    assert again.loss == pytest.approx(sums.loss, abs=1e-12)


def test_sgsd_pushes_where_the_outcome_contradicts_the_support() -> None:
    recipe = RECIPES["sgsd"]
    rows = toy_rows((5, 5))
    slot = toy_slot(rows, "skills", seed=3)
    batch = toy_batch(rows, slot)
    hidden_TD, head = toy_student(10)
    student, opinions = first_pass(recipe, batch, head, hidden_TD)
    weight_T = weigh(recipe, batch.view(student), opinions)[0].weight_T[0]
    delta_T = (slot.logprob_T - student.logprob_T).clamp(-3, 3)
    for begin, outcome in ((0, 1.0), (5, -1.0)):
        support = delta_T[begin : begin + 5].mean()
        expected = float(outcome * support.sign() * (support.abs() > 0.05)) / 5
        torch.testing.assert_close(weight_T[begin : begin + 5], torch.full((5,), expected, dtype=torch.float64))
