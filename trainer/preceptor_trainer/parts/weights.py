"""How much each token learns from one opinion: detached numbers, over the whole global batch.

rho is the ratio of the current student to whoever wrote the token: 1 where the batch is used once, by its writer, and
writer and learner compute alike. A token that nobody sampled (a dataset's) has no ratio: it counts as 1.
"""

from __future__ import annotations

from functools import reduce
from math import inf
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, SerializeAsAny, model_validator

from preceptor.wire.teachers import Support
from preceptor_trainer.recipe import GROUP, NAMES_A_CONTEXT, REWARD, Coefficient, ContextName, Weight, at
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


def ratio(view: TokenView) -> Tensor:
    """rho [T]."""
    gap_T = (view.student.logprob_T - view.behaviour.logprob_T) * view.behaviour.present_T
    return gap_T.clamp(min=-20.0, max=20.0).exp()


def rollout_mean(values_T: Tensor, view: TokenView, counted_T: Tensor | None = None) -> Tensor:
    """[B] mean over each rollout's tokens, or over those that count (1, else 0)."""
    counted_T = values_T.new_ones(len(values_T)) if counted_T is None else counted_T
    zeros_B = values_T.new_zeros(len(view.length_B))
    count_B = zeros_B.index_add(0, view.rollout_T, counted_T).clamp(min=1)
    return zeros_B.index_add(0, view.rollout_T, values_T * counted_T) / count_B


class ImportanceTruncate(Weight, kind="importance_truncate"):
    """min(rho, most): truncated importance sampling, for rollouts of older weights or of another engine.

    SDPO's correction (arXiv:2601.20802, at most 2); also that between two engines which run the same weights.
    """

    corrects: ClassVar[bool] = True
    most: float = Field(default=2.0, ge=1)
    """Largest weight."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return ratio(view).clamp(max=self.most)


class ImportanceBand(Weight, kind="importance_band"):
    """rho where low <= rho <= high, else 0: MOPD's mask against tokens that sampler and learner see too differently
    (MiMo-V2-Flash, section 4.4). A token that it closes stays in the denominator, as there."""

    corrects: ClassVar[bool] = True
    low: float = Field(default=0.5, gt=0, le=1)
    """Smallest ratio that counts."""
    high: float = Field(default=2.0, ge=1)
    """Largest ratio that counts."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        ratio_T = ratio(view)
        return ratio_T.where((ratio_T >= self.low) & (ratio_T <= self.high), ratio_T * 0.0)


class GroupAdvantage(Weight, kind="group_advantage"):
    """GRPO's advantage on every token of a rollout (arXiv:2402.03300): (r - mean) / (std + 1e-6) over its group."""

    reads: ClassVar[frozenset[str]] = frozenset({GROUP, REWARD})
    scale: bool = True
    """False: without the division (Dr. GRPO, arXiv:2503.20783)."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        same_BB = (view.group_B[:, None] == view.group_B[None, :]).to(view.reward_B.dtype)
        size_B = same_BB.sum(-1)
        above_B = view.reward_B - (same_BB @ view.reward_B) / size_B
        if self.scale:
            above_B = above_B / ((same_BB @ above_B.square()) / size_B).sqrt().add(1e-6)
        return above_B[view.rollout_T]


class BatchAdvantage(Weight, kind="batch_advantage"):
    """The reward whitened over the whole batch, (r - mean) / (std + 1e-6): for one rollout a task (EGRSD,
    arXiv:2605.13255). A short success may earn more: r = reward * (1 + bonus * (1 - length / longest))."""

    reads: ClassVar[frozenset[str]] = frozenset({REWARD})
    bonus: float = Field(default=0.0, ge=0)
    """What a success of no length would earn on top, as a share of its reward."""
    longest: int = Field(default=1024, ge=1)
    """Length that earns no bonus; a longer one earns none either."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        spare_B = (1 - view.length_B.to(view.reward_B.dtype) / self.longest).clamp(min=0)
        reward_B = view.reward_B * (1 + self.bonus * spare_B)
        above_B = reward_B - reward_B.mean()
        return (above_B / (above_B.square().mean().sqrt() + 1e-6))[view.rollout_T]


class AnchoredRatio(Weight, kind="anchored_ratio"):
    """A * [(1 - mix) + mix * clip(w, 1 - epsilon, 1 + epsilon)], w = (over / under)^sign(A), of the written token.

    The verifier says which way a rollout is pushed, two views of it how much of that each token gets (RLSD,
    arXiv:2604.03128, and its family): A never changes its sign. The student stands in for a view that has no opinion
    on a token; where that leaves it on both sides, the token keeps A.
    """

    over: ContextName
    """The view above the line: a context's name, or `student`."""
    under: ContextName = "student"
    """The view below it."""
    epsilon: float = Field(default=0.2, gt=0, le=1)
    """How far from 1 the ratio may be."""
    mix: Coefficient = 1.0
    """Share of the ratio in the weight; at 0 it is A."""
    advantage: SerializeAsAny[Weight] | None = GroupAdvantage()
    """A; None: 1 everywhere, for a ratio that no verifier anchors."""
    least_reward: float | None = None
    """Rollouts of a lower reward keep A; None: there is no such bound."""

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if self.over == self.under:
            raise ValueError(f"over, under: both are '{self.over}', and their ratio is 1 whatever it says")
        if not isinstance(self.mix, float) or 0 <= self.mix <= 1:
            return self
        raise ValueError(f"mix: {self.mix} is not a share; between 0 and 1 the weight keeps the advantage's sign")

    @property
    def reading(self) -> frozenset[str]:
        return super().reading | (frozenset() if self.least_reward is None else {REWARD})

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        gap_T = self._view(view, self.over) - self._view(view, self.under)
        ones_T = gap_T.new_ones(gap_T.shape)
        advantage_T = ones_T if self.advantage is None else self.advantage(view, opinion)
        ratio_T = (advantage_T.sign() * gap_T).clamp(min=-20.0, max=20.0).exp()
        share_T = 1 + at(self.mix, view.step) * (ratio_T.clamp(1 - self.epsilon, 1 + self.epsilon) - 1)
        if self.least_reward is not None:
            share_T = share_T.where((view.reward_B >= self.least_reward)[view.rollout_T], ones_T)
        return advantage_T * share_T

    def _view(self, view: TokenView, name: str) -> Tensor:
        return view[name].logprob_T.where(view[name].present_T > 0, view.student.logprob_T)


class Confidence(Weight, kind="confidence"):
    """clip(1 - gamma * H / max(1 nat, largest H of the batch), floor, 1), H the weighed opinion's entropy: an unsure
    teacher counts less (EGRSD, arXiv:2605.13255).

    With a `window` W, H is the lowest entropy among this token and the W after it: a fork that is soon resolved keeps
    its weight (CL-EGRSD). A weight of a targeted term: what an untargeted one weighs is the student.
    """

    needs: ClassVar[Support] = Support.FULL
    gamma: float = Field(default=0.3, ge=0, le=1)
    """How much entropy costs; 0: nothing."""
    floor: float = Field(default=0.1, gt=0, le=1)
    """Smallest weight."""
    window: int = Field(default=0, ge=0)
    """Tokens to look ahead, within the rollout."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        entropy_T = opinion.entropy_T
        assert entropy_T is not None, "its `needs` has it asked for"
        heard_T = opinion.present_T > 0
        largest = entropy_T.masked_fill(~heard_T, 0.0).amax().clamp(min=1.0)
        lowest_T = entropy_T.clone()
        for ahead in range(1, min(self.window, len(entropy_T) - 1) + 1):
            reached_T = heard_T[ahead:] & (view.rollout_T[ahead:] == view.rollout_T[:-ahead])
            lowest_T[:-ahead] = lowest_T[:-ahead].minimum(entropy_T[ahead:].masked_fill(~reached_T, float("inf")))
        return (1 - self.gamma * lowest_T / largest).clamp(min=self.floor, max=1.0)


class Frontier(Weight, kind="frontier"):
    """p^a (1 - p)^b, p a task's mean reward in this batch, its pass rate where rewards are 0 and 1: nothing is learned
    where all fail or all succeed (PACED, arXiv:2603.11178)."""

    reads: ClassVar[frozenset[str]] = frozenset({GROUP, REWARD})
    a: float = Field(default=1.0, ge=0)
    """How much failing counts against a task; 0: not."""
    b: float = Field(default=1.0, ge=0)
    """How much succeeding does; 0: not."""
    normalise: bool = True
    """Divide by the batch's mean, so that the scale of the loss stays."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        same_BB = (view.group_B[:, None] == view.group_B[None, :]).to(view.reward_B.dtype)
        solved_B = ((same_BB @ view.reward_B) / same_BB.sum(-1)).clamp(min=0.0, max=1.0)
        weight_B = solved_B**self.a * (1 - solved_B) ** self.b
        if self.normalise:
            weight_B = weight_B / weight_B.mean().clamp(min=1e-9)
        return weight_B[view.rollout_T]


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


class Disagreement(Weight, kind="disagreement"):
    """Only tokens on which several teachers are as far apart as is said: the largest less the smallest log-probability
    that those who are there give the written token. Two terms, one up to a bound and one from it on, route by it."""

    gate: ClassVar[bool] = True
    of: Annotated[tuple[str, ...], Field(min_length=2), NAMES_A_CONTEXT]
    """The contexts that are compared."""
    least: float | None = Field(default=None, ge=0)
    """Nats below which a token is passed over; None: there is no such bound."""
    most: float | None = Field(default=None, gt=0)
    """Nats from which on it is; None: there is no such bound."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("least, most: a gate needs a bound; leave the gate out otherwise")
        if self.least is not None and self.most is not None and self.most <= self.least:
            raise ValueError(f"most: {self.most} is not above least, {self.least}; no token would be left")
        return self

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        said = [view[name] for name in self.of]
        highest_T = reduce(
            lambda a, b: a.maximum(b), [one.logprob_T.masked_fill(one.present_T == 0, -inf) for one in said]
        )
        lowest_T = reduce(
            lambda a, b: a.minimum(b), [one.logprob_T.masked_fill(one.present_T == 0, inf) for one in said]
        )
        apart_T = (highest_T - lowest_T).clamp(min=0)  # nobody there: below nothing, and 0
        open_T = apart_T >= (self.least or 0.0)
        if self.most is not None:
            open_T = open_T & (apart_T < self.most)
        return open_T.to(opinion.present_T.dtype)


class RewardGate(Weight, kind="reward_gate"):
    """Only rollouts whose reward is within bounds (successes, or failures)."""

    reads: ClassVar[frozenset[str]] = frozenset({REWARD})
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


class Outside(Weight, kind="outside"):
    """1 but on the tokens that a context's opinion is about, which count `share`: for what learns elsewhere (TRACE,
    arXiv:2605.10194)."""

    of: ContextName
    """The context; one without an opinion on a token is not about it."""
    share: Coefficient = 0.0
    """What those tokens count; at 1 they count like any other."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        weight_T = view[self.of].weight_T * view[self.of].present_T
        return 1 - (1 - at(self.share, view.step)) * (weight_T != 0).to(weight_T.dtype)
