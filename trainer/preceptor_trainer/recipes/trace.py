"""Token-routed self-OPD (arXiv:2605.10194): a teacher speaks where it matters, on a few spans, and falls silent after
some steps; the reward does the rest.

An annotator (role `annotator`, a text teacher) quotes what makes a right rollout right and a wrong one wrong, with a
coarse label. The self-teacher is told the label alone. GRPO learns everywhere else, and takes the spans back.

    L = L_GRPO(rest) + rho L_GRPO(spans) + lam / |y| sum_t [mu_E 1{error} KL(S||T) + mu_K 1{key} KL(T||S)]
    lam = 0.5 until step 10, then linearly to 0 within 30 steps;  rho = 1 - lam / 0.5

Evidence: the paper was read. (mu_E, mu_K) = (0, 1), at most a quarter of a rollout in spans, the clip 0.05 and the copy
every 10 steps are theirs; for weak students they set (1, 0): `objective.2.coefficient`. Ours: 8 rollouts, GRPO's clip
0.2, all words, and that a quarter is of characters. From step 40 on nobody is asked (`until`): change it with the
schedules. A clip of one side withholds gradient where it acts: `clipped` tells how much.

Helps where few spans of long answers decide. Not for short ones: a quarter of ten characters is hardly anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preceptor_trainer.parts.contexts_marked import Marked
from preceptor_trainer.parts.divergences import ForwardKL, ReverseKL
from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.parts.weights import GroupAdvantage, Outside
from preceptor_trainer.recipe import Recipe, Reduces, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class OfAll(Weight, kind="of_all"):
    """The share of the batch's rollouts that there is an opinion on: a mean over those becomes one over all."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        heard_B = opinion.present_T.new_zeros(len(view.length_B)).index_add(0, view.rollout_T, opinion.present_T) > 0
        return opinion.present_T * 0 + heard_B.sum() / max(len(view.length_B), 1)


CLOSING, TAKEN_BACK = Linear(start=0.5, end=0.0, steps=30, wait=9), Linear(start=0.0, end=1.0, steps=30, wait=9)
REST = (Outside(of="key", share=TAKEN_BACK), Outside(of="error", share=TAKEN_BACK))
ALL = [{"kind": "group_advantage"}, {"kind": "outside", "of": "key", "share": 1.0}]

RECIPE = Recipe(
    paper="arXiv:2605.10194",
    rollout=Student(samples=8),
    contexts={"key": Marked(on="right", until=39), "error": Marked(on="wrong", until=39)},
    objective=(
        PolicyGradient(weights=(GroupAdvantage(), *REST)),
        ForwardKL(target=Single(context="key"), weights=(OfAll(),), clip=0.05, coefficient=CLOSING),
        ReverseKL(target=Single(context="error"), weights=(OfAll(),), clip=0.05, coefficient=0.0),
    ),
    teacher=CopyEvery(every=10),
    reduction="sequence",
    reduces=(
        Reduces(
            to="grpo",
            when={"objective.0.weights": ALL, "objective.1.coefficient": 0.0},
            given={"reduction": "sequence"},
        ),
    ),
)
