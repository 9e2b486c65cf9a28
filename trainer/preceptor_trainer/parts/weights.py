"""How much each token learns from one opinion: detached numbers, over the whole global batch.

rho is the ratio of the current student to whoever wrote the token: 1 where the batch is used once, by its writer, and
writer and learner compute alike. A token that nobody sampled (a dataset's) has no ratio: it counts as 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from preceptor_trainer.recipe import Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


def ratio(view: TokenView) -> Tensor:
    """rho [T]."""
    gap_T = (view.student.logprob_T - view.behaviour.logprob_T) * view.behaviour.present_T
    return gap_T.clamp(min=-20.0, max=20.0).exp()


class ImportanceTruncate(Weight, kind="importance_truncate"):
    """min(rho, most): truncated importance sampling, for rollouts of older weights or of another engine.

    SDPO's correction (arXiv:2601.20802, at most 2); also that between two engines which run the same weights.
    """

    most: float = Field(default=2.0, ge=1)
    """Largest weight."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return ratio(view).clamp(max=self.most)


class ImportanceBand(Weight, kind="importance_band"):
    """rho where low <= rho <= high, else 0: MOPD's mask against tokens that sampler and learner see too differently
    (MiMo-V2-Flash, section 4.4). A token that it closes stays in the denominator, as there."""

    low: float = Field(default=0.5, gt=0, le=1)
    """Smallest ratio that counts."""
    high: float = Field(default=2.0, ge=1)
    """Largest ratio that counts."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        ratio_T = ratio(view)
        return ratio_T.where((ratio_T >= self.low) & (ratio_T <= self.high), ratio_T * 0.0)


class GroupAdvantage(Weight, kind="group_advantage"):
    """GRPO's advantage on every token of a rollout (arXiv:2402.03300): (r - mean) / (std + 1e-6) over its group."""

    scale: bool = True
    """False: without the division (Dr. GRPO, arXiv:2503.20783)."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        same_BB = (view.group_B[:, None] == view.group_B[None, :]).to(view.reward_B.dtype)
        size_B = same_BB.sum(-1)
        above_B = view.reward_B - (same_BB @ view.reward_B) / size_B
        if self.scale:
            above_B = above_B / ((same_BB @ above_B.square()) / size_B).sqrt().add(1e-6)
        return above_B[view.rollout_T]


class EntropyGate(Weight, kind="entropy_gate"):
    """Only tokens on which the student's entropy is within bounds: forks, or the settled ones."""

    gate: ClassVar[bool] = True
    least: float = Field(default=0.0, ge=0)
    """Nats below which a token is passed over."""
    most: float | None = Field(default=None, gt=0)
    """Nats above which it is; None: there is no such bound."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.most is not None and self.most <= self.least:
            raise ValueError(f"most: {self.most} is not above least, {self.least}; no token would be left")
        return self

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        entropy_T = view.student.entropy_T
        assert entropy_T is not None, "the first pass gives the student's"
        open_T = entropy_T >= self.least
        if self.most is not None:
            open_T = open_T & (entropy_T <= self.most)
        return open_T.to(entropy_T.dtype)


class RewardGate(Weight, kind="reward_gate"):
    """Only rollouts whose reward is within bounds (successes, or failures)."""

    gate: ClassVar[bool] = True
    least: float | None = None
    """Smallest reward that counts; None: there is no such bound."""
    most: float | None = None
    """Largest reward that counts; None: there is no such bound."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("least, most: a gate needs a bound; leave the gate out otherwise")
        return self

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        reward_B = view.reward_B
        open_B = reward_B == reward_B
        if self.least is not None:
            open_B = open_B & (reward_B >= self.least)
        if self.most is not None:
            open_B = open_B & (reward_B <= self.most)
        return open_B.to(reward_B.dtype)[view.rollout_T]
