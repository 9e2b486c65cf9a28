"""Parts that more than one sketch needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from preceptor.wire.teachers import Support
from preceptor_trainer.recipe import TeacherUpdate, Term, Weight
from preceptor_trainer.views import BlockView, Opinion, Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


def advantage_B(view: TokenView) -> Tensor:
    """Group-normalised advantage [B]: (r - mean of the group) / (std of the group + 1e-6)."""
    same_BB = (view.group_B[:, None] == view.group_B[None, :]).to(view.reward_B.dtype)
    size_B = same_BB.sum(-1)
    mean_B = (same_BB @ view.reward_B) / size_B
    variance_B = (same_BB @ view.reward_B.square()) / size_B - mean_B.square()
    return (view.reward_B - mean_B) / (variance_B.clamp(min=0).sqrt() + 1e-6)


class GroupAdvantage(Weight, kind="sketch_group_advantage"):
    """GRPO's advantage of the rollout, on each of its tokens."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return advantage_B(view)[view.rollout_T]


class ClippedPolicyGradient(Term, kind="sketch_clipped_pg"):
    """PPO's clipped surrogate of the sampled token; the advantage comes in as a (signed) weight."""

    needs = Support.SAMPLED
    targeted = False
    low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip of the ratio to the sampler."""
    high: float = Field(default=0.2, gt=0)
    """Upper clip."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        ratio_T = (block.student.logprob_T - block.tokens.behaviour.logprob_T).exp()
        clipped_T = ratio_T.clamp(1 - self.low, 1 + self.high)
        return -ratio_T.minimum(clipped_T).where(target.weight_T >= 0, ratio_T.maximum(clipped_T))


class EMA(TeacherUpdate, kind="sketch_ema"):
    """Exponential moving average of the student."""

    decay: float = Field(default=0.95, ge=0, lt=1)
    """Share of the old teacher that is kept."""

    def decay_after(self, step: int) -> float | None:
        return self.decay


def mean_by_rollout(values_T: Tensor, view: TokenView) -> Tensor:
    """[B] mean of a per-token quantity over each rollout."""
    zeros_B = view.reward_B.new_zeros(len(view.reward_B))
    return zeros_B.index_add(0, view.rollout_T, values_T) / view.length_B.clamp(min=1)
