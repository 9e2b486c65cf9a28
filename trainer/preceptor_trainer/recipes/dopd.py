"""Dual on-policy distillation (arXiv:2606.30626): each token learns from the privileged teacher or from the privileged
student, by how far the two are apart.

    A = |log T_p(y) - log S_p(y)| against its batch mean
    far:   T_p likelier: 1.0 JS(S, T_p)     S_p likelier: 0.6 KL(S || S_p)
    near:  both likely: 0.6 KL(S || T_p)    both unlikely: 0.3 KL(S || S_p)

T_p is another, frozen model, S_p the student's own current weights; both are shown the reference solution.

Evidence: a third party's notes; the paper was not read. The weights are theirs. Their thresholds are ambiguous (read
literally they leave tokens out), so the regimes are a reconstruction that gives every token one: "likely" is a mean
probability above the batch's. Theirs is top-128 KL but for the JS: here whole distributions where both teachers
give them, else 128 ids. S_p is a copy after every step.

Helps where both a stronger teacher and references are at hand. Where one of them is clearly the better, `opd` or `opsd`
with that one is simpler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.divergences import JSD, ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.recipe import Recipe, Reduces, Weight
from preceptor_trainer.support import Sparse
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Regime(Weight, kind="regime"):
    """`share` on the tokens of one regime, 0 on the others; they stay in the denominator."""

    reads: ClassVar[frozenset[str]] = frozenset({"teacher", "informed"})
    regime: Literal["far_teacher", "far_student", "near_likely", "near_unlikely"]
    """Which."""
    share: float = Field(gt=0)
    """The regime's weight."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        teacher, student = view["teacher"], view["informed"]
        both_T, led_T = teacher.present_T * student.present_T, teacher.logprob_T >= student.logprob_T
        gap_T = (teacher.logprob_T - student.logprob_T).abs() * both_T
        mass_T = (teacher.logprob_T.exp() + student.logprob_T.exp()) * both_T
        far_T, likely_T = (each_T * both_T.sum() > each_T.sum() for each_T in (gap_T, mass_T))
        regimes = {"far_teacher": far_T & led_T, "far_student": far_T & ~led_T}
        regimes |= {"near_likely": ~far_T & likely_T, "near_unlikely": ~far_T & ~likely_T}
        return regimes[self.regime].to(both_T.dtype) * both_T * self.share


TO_TEACHER = {"kind": "jsd", "target": {"kind": "single", "context": "teacher"}}
HEARD = {"teacher": {"kind": "reference", "teacher": "teacher"}}

RECIPE = Recipe(
    paper="arXiv:2606.30626",
    rollout=Student(samples=1),
    contexts={"teacher": Reference(teacher="teacher"), "informed": Reference(teacher="self")},
    objective=(
        JSD(target=Single(context="teacher"), weights=(Regime(regime="far_teacher", share=1.0),)),
        ReverseKL(target=Single(context="informed"), weights=(Regime(regime="far_student", share=0.6),)),
        ReverseKL(target=Single(context="teacher"), weights=(Regime(regime="near_likely", share=0.6),)),
        ReverseKL(target=Single(context="informed"), weights=(Regime(regime="near_unlikely", share=0.3),)),
    ),
    teacher=CopyEvery(every=1),
    sparse=Sparse(k=128),
    reduces=(
        Reduces(to="opd", when={"objective": [TO_TEACHER]}, given={"contexts": HEARD, "objective": [{"kind": "jsd"}]}),
    ),
)
