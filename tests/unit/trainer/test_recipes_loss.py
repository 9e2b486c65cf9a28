"""Every recipe goes through the real loss; how its tokens are cut into blocks changes nothing."""

from __future__ import annotations

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.loss import first_pass, fold
from preceptor_trainer.weighing import weigh
from tests.unit.trainer.setting import batch_of
from tests.unit.trainer.toy import toy_rows, toy_student


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
