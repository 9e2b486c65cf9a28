"""Evidence-guided OPD (arXiv:2605.23493): some rollouts are written with the privileged text in the prompt; only
tokens it supports learn.

pi_b = rho pi_T(.|x, r) + (1 - rho) pi_S(.|x) over whole rollouts; m_t = 1{log pi_T(y|x, r) - log pi_T(y|x) > tau};
L = sum_t sg[m_t] (log pi_S - log pi_T), plus beta KL(pi_S || base). The loss prompt never holds r.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from preceptor_trainer.parts.contexts import Plain, Reference
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, RolloutPolicy, Weight
from preceptor_trainer.views import Message, Plan, PlanView, Scalars, TokenView, Turn

if TYPE_CHECKING:
    from torch import Tensor


class Guided(RolloutPolicy, kind="sketch_guided"):
    """A share of the rollouts is written by the student while it sees the reference."""

    share: float = Field(default=0.5, ge=0, le=1)
    """rho."""

    def plan(self, view: PlanView) -> Plan:
        turn = Turn(messages=view.task.messages)
        if view.rng.random() >= self.share:
            return Plan(turns=(turn,))
        guide = Message(role="system", content=f"Use this: {view.task.reference}")
        return Plan(turns=(turn,), behaviour=(guide, *view.task.messages))


class EvidenceMask(Weight, kind="sketch_evidence_mask"):
    """1 where the privileged text raises the token's probability under the same teacher."""

    gate: ClassVar[bool] = True
    shown: str
    """The context with the text."""
    hidden: str
    """The same teacher without it."""
    tau: float = 0.0
    """Evidence has to be above this."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        evidence_T = view[self.shown].logprob_T - view[self.hidden].logprob_T
        return (evidence_T > self.tau).to(evidence_T.dtype)


RECIPE = Recipe(
    paper="arXiv:2605.23493",
    rollout=Guided(share=0.5),
    contexts={"reference": Reference(teacher="self"), "plain": Plain(teacher="self")},
    target=Single(context="reference"),
    objective=(
        SampledReverseKL(weights=(EvidenceMask(shown="reference", hidden="plain"),), importance=False),
        ReverseKL(target=Single(context="plain"), coefficient=0.05),
    ),
)
