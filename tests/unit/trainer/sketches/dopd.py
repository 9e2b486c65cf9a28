"""Dual on-policy distillation (arXiv:2606.30626): each token is routed to the privileged teacher or the privileged
student.

A = |log T_p(y) - log S_p(y)| against its batch mean decides high or low; the tie-break is a reconstruction (any
token has one regime).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.divergences import JSD, ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Weight
from preceptor_trainer.views import Scalars, TokenView
from tests.unit.trainer.sketches.common import Live

if TYPE_CHECKING:
    from torch import Tensor


class Regime(Weight, kind="sketch_regime"):
    """1 on the tokens of one regime: LH, LL (low advantage, high or low probability), HT, HS (high, teacher's or
    student's)."""

    gate: ClassVar[bool] = False
    regime: Literal["LH", "LL", "HT", "HS"]
    """Which tokens."""
    share: float
    """The regime's weight."""
    teacher: str = "teacher"
    """The privileged teacher's context."""
    student: str = "student_privileged"
    """The privileged student's."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        teacher_T, student_T = view[self.teacher].logprob_T, view[self.student].logprob_T
        gap_T, mean_T = (teacher_T - student_T).abs(), (teacher_T.exp() + student_T.exp()) / 2
        high_T, led_T, likely_T = gap_T > gap_T.mean(), teacher_T >= student_T, mean_T >= mean_T.mean()
        chosen_T = {
            "HT": high_T & led_T,
            "HS": high_T & ~led_T,
            "LH": ~high_T & likely_T,
            "LL": ~high_T & ~likely_T,
        }[self.regime]
        return chosen_T.to(teacher_T.dtype) * self.share


RECIPE = Recipe(
    paper="arXiv:2606.30626",
    rollout=Student(samples=1),
    contexts={"teacher": Reference(teacher="teacher"), "student_privileged": Reference(teacher="self")},
    objective=(
        ReverseKL(target=Single(context="teacher"), weights=(Regime(regime="LH", share=0.6),)),
        ReverseKL(target=Single(context="student_privileged"), weights=(Regime(regime="LL", share=0.3),)),
        JSD(target=Single(context="teacher"), weights=(Regime(regime="HT", share=1.0),)),
        ReverseKL(target=Single(context="student_privileged"), weights=(Regime(regime="HS", share=0.6),)),
    ),
    teacher=Live(),
)
