"""SDPO: w = 0 is GRPO and a group of successes is shown its others (`test_reduces`, `test_contexts_tried`); here what
learns, by how much, and from whom."""

from __future__ import annotations

import pytest
import torch

from preceptor_trainer import recipes
from tests.unit.trainer.by_hand import gradient, written
from tests.unit.trainer.reference import jsd
from tests.unit.trainer.setting import agreeing, batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows, toy_slot

SDPO = recipes.load("sdpo")
ROWS = toy_rows((4, 2, 6, 3), group=2)


def test_the_gradient_is_jsd_times_the_truncated_ratio_over_the_tokens_that_heard_something() -> None:
    slot = toy_slot(ROWS, "tried", seed=5, absent=(1,))
    batch = batch_of(SDPO, ROWS, {"tried": slot}, on_policy=False)
    own_T = written(batch, own_logprobs(batch))
    ratio_T = (own_T - batch.behaviour.logprob_T).exp()
    assert bool((ratio_T > 2).any()) and bool((ratio_T < 2).any())
    wanted_TD = gradient(
        batch,
        lambda s_TV: (
            (jsd(s_TV.exp(), said(slot).exp(), 0.5) * ratio_T.clamp(max=2) * slot.present_T).sum()
            / slot.present_T.sum()
        ),
    )
    torch.testing.assert_close(learn(SDPO, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_a_batch_that_all_failed_without_feedback_teaches_nothing() -> None:
    learned = learn(SDPO, batch_of(SDPO, ROWS, {"tried": toy_slot(ROWS, "tried", absent=range(4))}))
    assert learned.loss == 0 and not bool(learned.moved_T.any())


def test_a_teacher_that_learned_nothing_from_what_it_was_shown_teaches_nothing() -> None:
    batch = batch_of(SDPO, ROWS)
    learned = learn(SDPO, batch_of(SDPO, ROWS, {"tried": agreeing(toy_slot(ROWS, "tried"), batch)}))
    assert learned.loss == pytest.approx(0, abs=1e-12) and float(learned.grad_TD.abs().max()) < 1e-12


def test_the_teacher_follows_by_a_twentieth() -> None:
    assert SDPO.teacher.decay_after(1) == 0.95
    trust = SDPO.override({"teacher": {"kind": "trust_region", "share": 0.3}}).teacher
    assert trust.decay_after(1) == 0 and trust.anchor == pytest.approx(0.7)
