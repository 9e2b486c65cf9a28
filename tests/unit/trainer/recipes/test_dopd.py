"""DOPD: four regimes that partition the tokens, each with its own teacher, divergence and weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from preceptor_trainer import recipes
from tests.unit.trainer import reference as ref
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.setting import agreeing, batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows, toy_slot

DOPD = recipes.load("dopd")
ROWS = toy_rows((9, 7, 12))
TEACHER, INFORMED = toy_slot(ROWS, "teacher", seed=11), opinion(ROWS, "informed", DOPD.contexts["informed"])


def regimes() -> list[Tensor]:
    """Far and led by the teacher, far and by the student, near and likely, near and unlikely."""
    t, s = TEACHER.logprob_T, INFORMED.logprob_T
    far, led, likely = (t - s).abs() > (t - s).abs().mean(), t >= s, (t.exp() + s.exp()) / 2
    likely = likely > likely.mean()
    return [far & led, far & ~led, ~far & likely, ~far & ~likely]


def test_every_token_has_one_regime() -> None:
    plans = learn(DOPD, batch_of(DOPD, ROWS, {"teacher": TEACHER, "informed": INFORMED})).plans
    for plan, here_T, share in zip(plans, regimes(), (1.0, 0.6, 0.6, 0.3), strict=True):
        assert bool(here_T.any())
        torch.testing.assert_close(plan.weight_T[0], here_T.double() * share)
        assert plan.denominator == 28
    assert torch.equal(torch.stack(regimes()).sum(0), torch.ones(28, dtype=torch.int64))


def test_the_gradient_is_the_sum_of_the_four() -> None:
    batch = batch_of(DOPD, ROWS, {"teacher": TEACHER, "informed": INFORMED})
    far_t, far_s, likely, unlikely = (here_T.double() for here_T in regimes())
    t_TV, s_TV = said(TEACHER).exp(), said(INFORMED).exp()

    def wanted(logprobs_TV: Tensor) -> Tensor:
        p_TV = logprobs_TV.exp()
        to_teacher = far_t * ref.jsd(p_TV, t_TV, 0.5) + 0.6 * likely * ref.kl(p_TV, t_TV)
        return (to_teacher + (0.6 * far_s + 0.3 * unlikely) * ref.kl(p_TV, s_TV)).mean()

    torch.testing.assert_close(learn(DOPD, batch).grad_TD, gradient(batch, wanted), atol=1e-12, rtol=1e-9)


def test_a_privileged_student_that_is_the_student_teaches_nothing() -> None:
    batch = batch_of(DOPD, ROWS)
    same = {"teacher": TEACHER, "informed": agreeing(INFORMED, batch)}
    only = DOPD.override({"objective": [DOPD.objective[i].model_dump() for i in (1, 3)]})
    assert float(learn(only, batch_of(only, ROWS, same)).grad_TD.abs().max()) < 1e-12
    assert float(learn(DOPD, batch_of(DOPD, ROWS, same)).grad_TD.abs().max()) > 1e-3


@pytest.mark.parametrize("absent", [(0,), (0, 1)])
def test_a_token_that_one_of_them_says_nothing_about_has_no_regime(absent: tuple[int, ...]) -> None:
    half = toy_slot(ROWS, "informed", seed=5, absent=absent)
    learned = learn(DOPD, batch_of(DOPD, ROWS, {"teacher": TEACHER, "informed": half}))
    assert torch.equal(learned.moved_T, half.present_T > 0)
