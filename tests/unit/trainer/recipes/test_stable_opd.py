"""StableOPD: L_OPD + beta KL(S || base) on what the student wrote, lam NLL on what the data gave."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from preceptor_trainer import recipes
from tests.unit.trainer import reference as ref
from tests.unit.trainer.by_hand import evidence, gradient, written
from tests.unit.trainer.setting import batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows, toy_slot

STABLE = recipes.load("stable_opd")
GOLDEN = (1, 3)
ROWS = [replace(row, logprobs=None) if i in GOLDEN else row for i, row in enumerate(toy_rows((4, 2, 6, 3)))]
TEACHER, START = (opinion(ROWS, name, STABLE.contexts[name]) for name in ("teacher", "start"))


def test_the_gradient_is_the_sum_of_the_three_each_over_its_own_tokens() -> None:
    batch = batch_of(STABLE, ROWS)
    golden_T = torch.isin(batch.rollout_T, torch.tensor(GOLDEN)).double()
    own_T = 1 - golden_T
    advantage_T, base_TV = evidence(batch, TEACHER), said(START).exp()

    def wanted(logprobs_TV: Tensor) -> Tensor:
        said_T = written(batch, logprobs_TV)
        opd = -(own_T * advantage_T * said_T).sum() / own_T.sum()
        anchor = (own_T * ref.kl(logprobs_TV.exp(), base_TV)).sum() / own_T.sum()
        return opd + 0.01 * anchor - 0.1 * (golden_T * said_T).sum() / golden_T.sum()

    torch.testing.assert_close(learn(STABLE, batch).grad_TD, gradient(batch, wanted), atol=1e-12, rtol=1e-9)


def test_teachers_have_no_say_on_golden_tokens() -> None:
    others = {name: toy_slot(ROWS, name, seed=50 + i) for i, name in enumerate(("teacher", "start"))}
    one, two = (learn(STABLE, batch_of(STABLE, ROWS, slots)).grad_TD for slots in ({}, others))
    golden_T = torch.isin(batch_of(STABLE, ROWS).rollout_T, torch.tensor(GOLDEN))
    torch.testing.assert_close(one[golden_T], two[golden_T], atol=1e-14, rtol=0)
    assert one[golden_T].abs().max() > 0 and not torch.allclose(one[~golden_T], two[~golden_T])
