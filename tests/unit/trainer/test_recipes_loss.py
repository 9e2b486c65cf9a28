"""Every recipe goes through the real loss; how its tokens are cut into blocks changes nothing."""

from __future__ import annotations

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.loss import first_pass, fold
from preceptor_trainer.weighing import weigh
from tests.unit.trainer.setting import agreeing, batch_of, learn
from tests.unit.trainer.toy import toy_rows, toy_slot, toy_student

FROM_ELSEWHERE = {"cepo", "cl_egrsd", "dgrpo", "egrsd", "grpo", "mopd", "rlrt", "rlsd", "sft"}
"""Recipes that learn from rewards or references as well, or from nothing else."""


@pytest.mark.parametrize("name", recipes.names())
def test_blocks_change_nothing(name: str) -> None:
    recipe = recipes.load(name)
    batch = batch_of(recipe, toy_rows((4, 2, 6, 3), group=2))
    hidden_TD, head = toy_student(batch.tokens)
    student, opinions = first_pass(recipe, batch, head, hidden_TD)
    seen = batch.view(student)
    plans = weigh(recipe, seen, opinions)
    whole, sums = fold(recipe, batch, seen, plans, head, hidden_TD, 0)
    assert torch.isfinite(whole).all() and whole.abs().max() > 0
    cut, again = fold(recipe, batch, seen, plans, head, hidden_TD, 0, block_tokens=2)
    torch.testing.assert_close(cut, whole, atol=1e-12, rtol=0)
    assert again.loss == pytest.approx(sums.loss, abs=1e-12)


@pytest.mark.parametrize("name", sorted({*recipes.names()} - FROM_ELSEWHERE))
def test_teachers_that_think_what_the_student_thinks_teach_nothing(name: str) -> None:
    """A self-teacher without its context, say: no loss has a gradient of its own."""
    recipe, rows = recipes.load(name), toy_rows((4, 2, 6, 3), group=2)
    batch = batch_of(recipe, rows)
    slots = {context: agreeing(toy_slot(rows, context), batch) for context in recipe.contexts}
    assert float(learn(recipe, batch_of(recipe, rows, slots)).grad_TD.abs().max()) < 1e-12
