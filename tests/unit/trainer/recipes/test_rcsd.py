"""RCSD: forward KL with each event's share clipped; perhaps after `</think>` only."""

from __future__ import annotations

from dataclasses import replace

import torch

from preceptor_trainer import recipes
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.reference import plogpq
from tests.unit.trainer.setting import agreeing, batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows, toy_slot

RCSD = recipes.load("rcsd")
ROWS = toy_rows((4, 2, 6, 3))
MARK = 7


def test_the_gradient_is_that_of_the_clipped_sum() -> None:
    slot = toy_slot(ROWS, "rubric", seed=2)
    batch = batch_of(RCSD, ROWS, {"rubric": slot})
    touched = plogpq(said(slot).exp(), own_logprobs(batch).exp()) > 0.05
    assert bool(touched.any()) and not bool(touched.all()), "or the clip were idle, or all"
    wanted_TD = gradient(batch, lambda s_TV: plogpq(said(slot).exp(), s_TV.exp()).clamp(max=0.05).sum(-1).mean())
    torch.testing.assert_close(learn(RCSD, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_a_rubric_that_changes_nothing_teaches_nothing() -> None:
    batch = batch_of(RCSD, ROWS)
    same = agreeing(toy_slot(ROWS, "rubric"), batch)
    assert float(learn(RCSD, batch_of(RCSD, ROWS, {"rubric": same})).grad_TD.abs().max()) < 1e-12


def test_the_mask_opens_after_the_first_mark_of_each_rollout() -> None:
    masked = RCSD.override({"weights": [{"kind": "after_mark", "token": MARK}], "objective.0.clip": None})
    ids = [(1, MARK, 2, 3), (1, 2), (MARK, 4, MARK, 5, 6, 1), (1, 2, MARK)]
    rows = [replace(row, completion_ids=each) for row, each in zip(ROWS, ids, strict=True)]
    moved_T = learn(masked, batch_of(masked, rows)).moved_T
    assert moved_T.int().tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    bare = learn(masked, batch_of(masked, rows[1:2]))
    assert bare.loss == 0 and not bool(bare.moved_T.any())


def test_twenty_ids_of_the_teacher_s_choosing() -> None:
    assert (RCSD.sparse.k, RCSD.sparse.by, RCSD.sparse.always) == (20, "teacher", True)
    assert RCSD.writers == {"rubric_writer"}
