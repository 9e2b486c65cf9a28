"""StableOPD (arXiv:2604.08527): OPD that is kept from growing long and repeating itself, by an anchor and by golden
answers.

    L = L_OPD + beta KL(S || base) + lam NLL(golden)

OPD rewards what the teacher finds likely, a repeated phrase included: length inflates, rollouts are cut off, training
collapses. The KL to the student's frozen start and some rollouts that are the data's references hold against it.

Evidence: the abstract, and equations of third parties; the paper was not read. beta 0.01 and lam 0.1 are as another
project's comments quote them; one golden rollout in four is ours. Each term is a mean over its own tokens: on golden
ones the teacher and the anchor have no say. Deviation: no clip of the ratio to the sampler, since a batch is used once.
Their alarm, RepRate above 0.05, is the run's repetition guard.

Helps where on-policy distillation grows long or repeats itself. On short answers its anchor and its golden answers
mostly hold back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.objectives import NLL, SampledReverseKL
from preceptor_trainer.parts.rollouts import Mixed
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces, Term, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Written(Weight, kind="written"):
    """Only tokens that the student wrote, or only those that the data gave."""

    gate: ClassVar[bool] = True
    by: Literal["student", "data"]
    """Who."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        sampled_T = view.behaviour.present_T
        return sampled_T if self.by == "student" else 1 - sampled_T


def terms(beta: float, lam: float) -> tuple[Term, ...]:
    """The objective at these strengths."""
    own, golden = (Written(by="student"),), (Written(by="data"),)
    return (
        SampledReverseKL(weights=own),
        ReverseKL(target=Single(context="start"), coefficient=beta, weights=own),
        NLL(coefficient=lam, weights=golden),
    )


WITHOUT: list[dict[str, Any]] = [term.model_dump(mode="json") for term in terms(beta=0.0, lam=0.0)]

RECIPE = Recipe(
    paper="arXiv:2604.08527",
    rollout=Mixed(share=0.75),
    contexts={"teacher": Plain(teacher="teacher"), "start": Plain(teacher="self")},
    target=Single(context="teacher"),
    objective=terms(beta=0.01, lam=0.1),
    reduces=(Reduces(to="opd", when={"rollout": {"share": 1.0}, "objective": WITHOUT}),),
)
