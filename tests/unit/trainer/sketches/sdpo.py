"""Self-distillation policy optimisation (arXiv:2601.20802): the self-teacher is shown a sibling's success and the
verifier's feedback.

L = sum_t mask * w_IS,t * D_alpha(S_t, T_t) / sum mask, with the ratio to the sampler truncated at 2; EMA teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, SingleContext, Weight
from preceptor_trainer.views import ContextView, Message, Scalars, TokenView
from tests.unit.trainer.sketches.common import EMA, ClippedPolicyGradient, GroupAdvantage

if TYPE_CHECKING:
    from torch import Tensor


class Reprompt(SingleContext, kind="sketch_reprompt"):
    """The question, another rollout that succeeded (never its own), and feedback on this attempt. Neither: no
    opinion."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        others = [each for each in view.group if each.index != view.rollout.index]
        solution = next((each.text for each in others if each.verdict and each.verdict.correct), None)
        feedback = view.rollout.verdict.feedback if view.rollout.verdict else None
        if solution is None and feedback is None:
            return None
        parts = (view.task.messages[-1]["content"], solution, feedback, "Correctly solve the original question.")
        return (Message(role="user", content="\n\n".join(part for part in parts if part)),)


class TruncatedRatio(Weight, kind="sketch_truncated_ratio"):
    """Importance ratio of the student to the sampler, at most `ceiling`."""

    ceiling: float = Field(default=2.0, gt=0)
    """Largest ratio."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return (view.student.logprob_T - view.behaviour.logprob_T).exp().clamp(max=self.ceiling)


RECIPE = Recipe(
    paper="arXiv:2601.20802",
    rollout=Student(samples=8),
    contexts={"reprompt": Reprompt(teacher="self")},
    target=Single(context="reprompt"),
    objective=(
        JSD(beta=0.5, weights=(TruncatedRatio(),)),
        ClippedPolicyGradient(weights=(GroupAdvantage(),), coefficient=0.0),
    ),
    teacher=EMA(decay=0.95),
)
