"""Extrapolated on-policy distillation (G-OPD, arXiv:2602.12125): beyond the teacher, along the way from a reference
model to it.

    A = lam (log T - log R) - (log S - log R) = lam log T + (1 - lam) log R - log S

The optimum per token is q ~ R^(1 - lam) T^lam: OPD at lam 1, the reference at 0, past the teacher above 1. R is the
student's frozen start; a teacher's own start (`contexts.reference.teacher`) is their "reward correction".

Evidence: the authors' code (RUCBM/G-OPD) and README were read. lam 1.25, one rollout, the ratio to the sampler
truncated at 5, learning rate 1e-5 are theirs. Deviation: truncation stands in for their clipped surrogate; a batch is
used once. `guard` refuses a lam at which near-certain tokens are known to fall off a cliff (arXiv:2605.08737) unless
it is raised too.

Helps where the teacher is the reference made better (after RL); with a teacher of another lineage there is no such way.
A factor too large runs off on tokens that are certain already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import LogLinear
from preceptor_trainer.parts.weights import ImportanceTruncate
from preceptor_trainer.recipe import Recipe, Reduces, Target
from preceptor_trainer.views import BlockView, Opinion


class Extrapolated(Target, kind="extrapolated"):
    """R^(1 - lam) T^lam. `logprob_T` is left without the normaliser, as in the paper: it is the state's, the same
    whatever is written, so in expectation no policy gradient sees it; `logprobs_TK` sums to one."""

    lam: float = Field(default=1.25, ge=0)
    """How far along the way from `reference` (0) to `teacher` (1) and beyond."""
    guard: float = Field(default=1.5, ge=1)
    """Largest lam that is taken for meant."""

    @model_validator(mode="after")
    def _means_it(self) -> Self:
        if self.lam > self.guard:
            raise ValueError(
                f"lam: {self.lam} is over the guard, {self.guard}; so far out near-certain tokens diverge. "
                "Lower lam, or raise guard to say that you mean it"
            )
        return self

    @property
    def uses(self) -> tuple[str, ...]:
        return ("teacher", "reference")

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        composed = LogLinear(coefficients={"teacher": self.lam, "reference": 1 - self.lam})
        teacher, reference = block["teacher"], block["reference"]
        logprob_T = self.lam * teacher.logprob_T + (1 - self.lam) * reference.logprob_T
        if teacher.logprobs_TK is not None and reference.logprobs_TK is not None:
            return tuple(replace(each, logprob_T=logprob_T) for each in composed(block))
        ((present_T, weight_T),) = composed.outline(block.tokens)
        return (Opinion(logprob_T=logprob_T, present_T=present_T, weight_T=weight_T),)


RECIPE = Recipe(
    paper="arXiv:2602.12125",
    rollout=Student(samples=1),
    contexts={"teacher": Plain(teacher="teacher"), "reference": Plain(teacher="self")},
    target=Extrapolated(lam=1.25),
    objective=(SampledReverseKL(importance=False, weights=(ImportanceTruncate(most=5.0),)),),
    training={"learning_rate": 1e-5},
    reduces=(Reduces(to="opd", when={"target": {"lam": 1.0}, "objective": [{"kind": "sampled_reverse_kl"}]}),),
)
