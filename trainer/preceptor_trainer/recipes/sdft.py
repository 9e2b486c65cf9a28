"""Self-distillation fine-tuning (arXiv:2601.19897): learn from demonstrations without imitating their words.

The student answers the plain question; the same model, shown a demonstration, says how it would have gone on after each
token; the student moves towards that. Meant for learning one task after another with little forgetting.

    L = KL(T || S) on the student's own tokens, the first 3 left out, times min(rho, 2)

Evidence: the authors' code was read (and TRL's). Sources conflict on the teacher: the authors' code lets it follow with
0.01 a step (chosen: `ema`, decay 0.99); TRL freezes it and says that this is the paper (`{"teacher": {"kind":
"frozen"}}`). TRL's loss is JSD(0.5) on 100 ids.

Helps where there are demonstrations, and what the model could do before must stay. Not where the demonstrations cannot
be followed in context; with a teacher that moves, errors of its own build up over long runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from preceptor_trainer.parts.contexts import Demonstration
from preceptor_trainer.parts.divergences import ForwardKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import Ema
from preceptor_trainer.parts.weights import ImportanceTruncate
from preceptor_trainer.recipe import Recipe, Reduces, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class SkipFirst(Weight, kind="skip_first"):
    """A rollout's first tokens do not learn: there the teacher opens as somebody does who was shown an example."""

    gate: ClassVar[bool] = True
    count: int = Field(default=3, ge=0)
    """How many."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return (view.position_T >= self.count).to(opinion.logprob_T.dtype)


RECIPE = Recipe(
    paper="arXiv:2601.19897",
    rollout=Student(samples=1),
    contexts={"demonstration": Demonstration(teacher="self")},
    weights=(SkipFirst(count=3), ImportanceTruncate(most=2.0)),
    target=Single(context="demonstration"),
    objective=(ForwardKL(),),
    teacher=Ema(decay=0.99),
    reduces=(
        Reduces(
            to="opsd",
            when={"weights": [{"kind": "skip_first", "count": 0}, {"kind": "importance_truncate"}]},
            given={"contexts": {"reference": {"kind": "demonstration"}}, "objective": [{"kind": "forward_kl"}]},
        ),
    ),
)
