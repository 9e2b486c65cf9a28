"""DemoPSD (arXiv:2607.02502): a sibling's success teaches, less where the model with it and without it disagree most.

The self-teacher scores every token twice, with and without a successful rollout of the group. Where the two are far
apart, the target leans back towards the plain view: such tokens follow the shown answer's wording, not its reasoning.

    d = JSD(P, T);  a = 2 a_max (sigmoid(b d) - 1/2);  q = softmax((1 - a) log T + a log P);  L = KL(S || q) min(rho, 2)

Evidence: notes on the paper and a re-implementation that agrees, not the paper's text. a_max 0.15, EMA 0.05 a step and
8 rollouts are theirs; b is theirs by domain (biology 70, chemistry 25, materials 50, physics 100): 50 chosen. Note that
a is near a_max from d = 0.1 on. Deviations: the shown success is never the rollout itself; the vocabulary is whole
where the teacher gives it (theirs: the student's 100 likeliest and a tail).

Helps where groups have successes to show, on tasks that the model half knows. Not where no rollout succeeds: nobody has
anything to show; and the closer views with and without it are, the less is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from preceptor_trainer.parts.coefficients import PerToken
from preceptor_trainer.parts.contexts import PeerSuccess, Plain
from preceptor_trainer.parts.divergences import JSD, ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import LogLinear
from preceptor_trainer.parts.teacher_updates import Ema
from preceptor_trainer.parts.weights import ImportanceTruncate
from preceptor_trainer.recipe import NAMES_A_CONTEXT, Recipe, Reduces
from preceptor_trainer.views import Opinion, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Disagreement(PerToken, kind="disagreement"):
    """2 most (sigmoid(slope JSD) - 1/2) of two composed opinions, or one minus that."""

    between: Annotated[tuple[str, str], NAMES_A_CONTEXT]
    """The two contexts."""
    most: float = Field(default=0.15, ge=0, le=1)
    """What it nears where they disagree."""
    slope: float = Field(default=50.0, ge=0)
    """How soon."""
    complement: bool = False
    """One minus it."""

    def __call__(self, opinions: Mapping[str, Opinion], tokens: TokenView) -> Tensor:
        one, other = (opinions[name].distribution() for name in self.between)
        lean_T = 2 * self.most * ((self.slope * JSD(beta=0.5).compare(one, other)).sigmoid() - 0.5)
        return 1 - lean_T if self.complement else lean_T


LEAN = Disagreement(between=("peer", "plain"))

RECIPE = Recipe(
    paper="arXiv:2607.02502",
    rollout=Student(samples=8),
    contexts={"peer": PeerSuccess(teacher="self"), "plain": Plain(teacher="self")},
    weights=(ImportanceTruncate(most=2.0),),
    target=LogLinear(coefficients={"peer": LEAN.model_copy(update={"complement": True}), "plain": LEAN}),
    objective=(ReverseKL(),),
    teacher=Ema(decay=0.95),
    reduces=(
        Reduces(
            to="sdpo",
            when={"target": {"coefficients": {"peer": {"most": 0.0}, "plain": {"most": 0.0}}}},
            given={"contexts": {"tried": {"kind": "peer_success"}}, "objective.0.kind": "reverse_kl"},
        ),
    ),
    training={"learning_rate": 1e-6},
)
