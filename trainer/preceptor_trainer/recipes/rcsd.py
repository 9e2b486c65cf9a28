"""Rubric-conditioned self-distillation (arXiv:2606.19327): the self-teacher reads a reference and what a good answer
does, and is told not to mention either.

A text teacher writes the rubric (role `rubric_writer`; a row that brings a `rubric` column is not asked about).

    L = sum_t KL(T(.| x, reference, rubric, y_<t) || S(.| x, y_<t)), each event's share clipped at 0.05

Evidence: the authors' code (carriegu0818/RCSD, from OPSD's) was read. Forward KL on the teacher's 20 likeliest ids, the
clip, a frozen teacher, sampling at temperature 1.2 and learning rate 5e-6 (of LoRA) are theirs. Not found: how their
rubric generator is trained (stage 1); here it is whoever fills the role. Deviation: their top 20 are renormalised,
ours keep the rest as a tail. A clip of one side may turn the loss negative and withholds gradient where it acts:
`clipped` tells how much. Their optional mask is the weight `after_mark` with the id of `</think>`.

Helps where what makes an answer good can be written down as points. With one right answer the reference says more than
the rubric does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from preceptor_trainer.parts.contexts_written import Rubric
from preceptor_trainer.parts.divergences import ForwardKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces, Weight
from preceptor_trainer.support import Sparse
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class AfterMark(Weight, kind="after_mark"):
    """Only tokens after a rollout's first mark, `</think>` say; a rollout without one teaches nothing."""

    gate: ClassVar[bool] = True
    token: int = Field(ge=0)
    """The mark's id in the student's tokenizer."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        mark_T = (view.token_T == self.token).to(opinion.logprob_T.dtype)
        before_T = mark_T.cumsum(0) - mark_T
        first_T = view.position_T == 0
        start_B = mark_T.new_zeros(len(view.length_B)).index_add(0, view.rollout_T[first_T], before_T[first_T])
        return (before_T > start_B[view.rollout_T]).to(mark_T.dtype)


RECIPE = Recipe(
    paper="arXiv:2606.19327",
    rollout=Student(samples=1, temperature=1.2),
    contexts={"rubric": Rubric(teacher="self")},
    target=Single(context="rubric"),
    objective=(ForwardKL(clip=0.05),),
    sparse=Sparse(k=20, always=True),
    reduces=(
        Reduces(
            to="opsd",
            when={"objective.0.clip": None, "sparse.always": False},
            given={"contexts": {"reference": {"kind": "rubric"}}, "objective": [{"kind": "forward_kl"}]},
        ),
    ),
    training={"learning_rate": 5e-6},
)
