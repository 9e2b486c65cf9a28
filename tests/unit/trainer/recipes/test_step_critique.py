"""Step-aligned critique: forward KL to the view that read the critique; where that changes nothing, nothing is
learned."""

from __future__ import annotations

import torch

from preceptor_trainer import recipes
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.reference import kl
from tests.unit.trainer.setting import agreeing, batch_of, learn, said
from tests.unit.trainer.toy import toy_rows, toy_slot

RECIPE = recipes.load("step_critique")
ROWS = toy_rows((4, 2, 6, 3))
SLOT = toy_slot(ROWS, "critique", seed=3, absent=(2,))


def test_the_gradient_is_that_of_the_forward_kl_where_there_was_a_critique() -> None:
    batch = batch_of(RECIPE, ROWS, {"critique": SLOT})
    wanted_TD = gradient(
        batch, lambda s_TV: (kl(said(SLOT).exp(), s_TV.exp()) * SLOT.present_T).sum() / SLOT.present_T.sum()
    )
    learned = learn(RECIPE, batch)
    torch.testing.assert_close(learned.grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)
    assert torch.equal(learned.moved_T, SLOT.present_T > 0)


def test_a_critique_that_changes_nothing_teaches_nothing() -> None:
    batch = batch_of(RECIPE, ROWS)
    same = agreeing(toy_slot(ROWS, "critique"), batch)
    assert float(learn(RECIPE, batch_of(RECIPE, ROWS, {"critique": same})).grad_TD.abs().max()) < 1e-12


def test_the_teacher_is_the_student_of_the_step_before() -> None:
    assert [RECIPE.teacher.decay_after(step) for step in (1, 2, 3)] == [0.0] * 3
    assert RECIPE.writers == {"critic"} and RECIPE.scorers == {"self"}
