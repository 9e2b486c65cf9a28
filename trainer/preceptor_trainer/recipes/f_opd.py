"""Freshness-aware OPD (arXiv:2605.17862): rollouts of older weights count less, those too old not at all.

Where the student learns ahead of whoever writes (`training.max_lag`), a rollout has a lag, and the student has drifted
from what wrote it. Its freshness weighs its loss, and the student is held to where the rollout came from.

    f_i = exp(-(a sqrt(D_roll) + b sqrt(D_sup))) / (lag_i + 1);  J = mean_i ReLU(f_i - xi) (l_i + lam D_roll,i)

D_roll is KL(S now || S then), of the written tokens: rho log rho - rho + 1 with rho = S now / S then, never negative.
D_sup is the same drift of the teacher, as half the mean squared log-ratio of two contexts, now and then; with a frozen
teacher and a prompt that stays it is 0, and `then` names nobody.

Evidence: the paper was read. a, b, xi and lam are chosen per task there and not printed: 1, 1, 0.05 and 0.1 are ours,
as is OPD's sampled reverse KL for l. Deviation: no buffer is refreshed when it is stale or misaligned; `max_lag` bounds
how old a rollout may be, and what is below xi teaches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import SampledReverseKL, SamplerKL, sampler_drift
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.weights import rollout_mean
from preceptor_trainer.recipe import ContextName, Recipe, Reduces, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Freshness(Weight, kind="freshness"):
    """ReLU(f - xi) of the rollout, on each of its tokens."""

    a: float = Field(default=1.0, ge=0)
    """What the student's drift costs."""
    b: float = Field(default=1.0, ge=0)
    """What the teacher's does."""
    xi: float = Field(default=0.05, ge=0, lt=1)
    """Freshness at which a rollout teaches nothing."""
    now: ContextName = "teacher"
    """The teacher's context."""
    then: ContextName = "teacher"
    """The same teacher's as it was when the rollout was written; the same name: it has not moved."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        drift_T = sampler_drift(view.student.logprob_T, view.behaviour.logprob_T) * view.behaviour.present_T
        moved_T = (view[self.now].logprob_T - view[self.then].logprob_T).square() / 2 * view[self.then].present_T
        drift_B = self.a * rollout_mean(drift_T, view).sqrt() + self.b * rollout_mean(moved_T, view).sqrt()
        return ((-drift_B).exp() / (view.lag_B + 1) - self.xi).clamp(min=0)[view.rollout_T]


RECIPE = Recipe(
    paper="arXiv:2605.17862",
    rollout=Student(samples=4),
    contexts={"teacher": Plain(teacher="teacher")},
    weights=(Freshness(),),
    target=Single(context="teacher"),
    objective=(SampledReverseKL(), SamplerKL(coefficient=0.1)),
    reduces=(Reduces(to="opd", when={}, up_to="scale"),),
)
