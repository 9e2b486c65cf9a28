"""What every token's loss is multiplied with and divided by, over the whole global batch, before any block is walked.

Shape letters: T tokens of the global batch, B rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from preceptor_trainer.recipe import Recipe, Target, Term, Weight
from preceptor_trainer.views import Scalars, TokenView


class NonFiniteWeight(FloatingPointError):
    """A weight gave NaN or infinity on a token that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermWeights:
    """What one term multiplies its opinions with, over the global batch, and what it divides by."""

    weight_T: tuple[Tensor, ...]
    """Per opinion of the target."""
    denominator: float
    stale: bool = False
    """Whether a weight wants what is written ahead to be written anew."""


def weigh(recipe: Recipe, view: TokenView, opinions: Sequence[Sequence[Scalars]] | None) -> list[TermWeights]:
    """Weights and denominators of every term over the global batch.

    `opinions` are the scalars of each term's target opinions, from the gradient-free first pass; None where no part
    of the recipe weighs anything (then presence alone decides). Raises NonFiniteWeight, naming the part.
    """
    plans: list[TermWeights] = []
    for index, term in enumerate(recipe.objective):
        outline = _outline(term, recipe, view)
        weight_T, open_T, stale = list[Tensor](), list[Tensor](), False
        for k, (present_T, share_T) in enumerate(outline):
            scale_T, gate_T = share_T * present_T, present_T
            for part in (*recipe.weights, *term.weights):
                assert opinions is not None, "weights need the first pass"
                factor_T = part(view, opinions[index][k]).detach()
                _must_be_finite(factor_T, present_T, part, view.step)
                scale_T = scale_T * factor_T
                gate_T = gate_T * factor_T if part.gate else gate_T
                stale = stale or part.stale(view, opinions[index][k])
            weight_T.append(torch.where(present_T > 0, scale_T, torch.zeros_like(scale_T)))
            open_T.append(gate_T)
        counted_T = torch.stack(open_T).amax(0) if open_T else torch.zeros_like(view.student.present_T)
        plans.append(replace(_divide(recipe, view, weight_T, counted_T), stale=stale))
    return plans


def _must_be_finite(factor_T: Tensor, present_T: Tensor, part: Weight, step: int) -> None:
    broken = ~torch.isfinite(factor_T) & (present_T > 0)
    if bool(broken.any()):
        raise NonFiniteWeight(
            f"weight '{part.kind}' gave {float(factor_T[broken][0])} at step {step}; one that reads rewards needs a "
            "verifier, one that compares with the sampler rollouts that were sampled"
        )


def _divide(recipe: Recipe, view: TokenView, weight_T: list[Tensor], counted_T: Tensor) -> TermWeights:
    if recipe.reduction == "token":
        return TermWeights(weight_T=tuple(weight_T), denominator=float(counted_T.sum()))
    length_B = torch.zeros_like(view.reward_B).index_add(0, view.rollout_T, counted_T.to(view.reward_B.dtype))
    share_T = (1.0 / length_B.clamp(min=1e-9))[view.rollout_T] * (counted_T > 0)
    return TermWeights(weight_T=tuple(each_T * share_T for each_T in weight_T), denominator=float((length_B > 0).sum()))


def _outline(term: Term, recipe: Recipe, view: TokenView) -> Sequence[tuple[Tensor, Tensor]]:
    if not term.targeted:
        return ((view.student.present_T, view.student.weight_T),)
    return target_of(term, recipe).outline(view)


def target_of(term: Term, recipe: Recipe) -> Target:
    """The term's own target, else the recipe's (`Recipe` refuses a targeted term with neither)."""
    target = term.target or recipe.target
    assert target is not None
    return target
