"""Self-distilled RLVR (arXiv:2604.03128): reward decides the sign, the privileged self-teacher redistributes credit
over tokens.

w_t = (P_T / P_S)^sign(A);  A_hat_t = A * [(1 - lam) + lam * clip(w_t, 1 - eps, 1 + eps)];  lam decays to 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.recipe import Coefficient, Recipe, Weight, at
from preceptor_trainer.views import Scalars, TokenView
from tests.unit.trainer.sketches.common import ClippedPolicyGradient, CopyEvery, advantage_B

if TYPE_CHECKING:
    from torch import Tensor


class SignAnchoredRatio(Weight, kind="sketch_sign_anchored_ratio"):
    """Advantage times the clipped evidence ratio, its exponent the advantage's sign."""

    context: str
    """Whose evidence."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clip of the ratio."""
    mix: Coefficient = Linear(start=1.0, end=0.0, steps=50)
    """lam."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        advantage_T = advantage_B(view)[view.rollout_T]
        evidence_T = view[self.context].logprob_T - view.student.logprob_T
        ratio_T = (advantage_T.sign() * evidence_T).exp().clamp(1 - self.epsilon, 1 + self.epsilon)
        lam = at(self.mix, view.step)
        return advantage_T * ((1 - lam) + lam * ratio_T)


RECIPE = Recipe(
    paper="arXiv:2604.03128",
    rollout=Student(samples=8),
    contexts={"answer": Reference(teacher="self")},
    weights=(SignAnchoredRatio(context="answer"),),
    objective=(ClippedPolicyGradient(low=0.2, high=0.2),),
    teacher=CopyEvery(every=10),
)
