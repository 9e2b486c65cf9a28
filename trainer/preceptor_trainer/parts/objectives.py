"""Terms that look at the written token, one of them at the likeliest others too. Divergences of whole distributions are
in `divergences.py`.

s and t are the student's and the target's log-probability of the written token, r = t - s. A token that its writer
could hardly have written makes exp(r) as large as one likes: exponents are bounded by LIMIT, beyond which the gradient
is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from preceptor.wire.teachers import Support
from preceptor_trainer.recipe import Term
from preceptor_trainer.views import BlockView, Opinion

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 20.0
"""Nats: exp(20) is 4.9e8."""


class SampledReverseKL(Term, kind="sampled_reverse_kl"):
    """Policy gradient on the sampled token with advantage log T - log S (detached), after Thinking Machines' OPD.

    The estimator k1 where it belongs, in the advantage: in expectation over the student's own samples its gradient is
    that of the per-token reverse KL; its value is not.
    """

    needs: ClassVar[Support] = Support.SAMPLED
    importance: bool = True
    """Multiply with the ratio of the current student to the sampler. It is 1 where a batch is used once, by its
    writer."""

    @property
    def corrects(self) -> bool:
        return self.importance

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        logprob_T = block.student.logprob_T
        advantage_T = target.logprob_T - logprob_T.detach()
        written_T = block.tokens.behaviour.logprob_T if self.importance else logprob_T.detach()
        return -(logprob_T - written_T).clamp(max=LIMIT).exp() * advantage_T


class SampledKL(Term, kind="sampled_kl"):
    """An estimate of KL(S || T) from the sampled token, as a loss (Schulman, Approximating KL Divergence, 2020).

    k2 = r^2 / 2: biased in value; its gradient, in expectation over the student's samples, is the reverse KL's.
    k3 = exp(r) - 1 - r: unbiased in value and never negative; its gradient in expectation is the *forward* KL's
    (Tang and Munos, arXiv:2506.09477). k1 = -r has no place here: its gradient in expectation is 0. It is the advantage
    of `sampled_reverse_kl`.
    """

    needs: ClassVar[Support] = Support.SAMPLED
    estimator: Literal["k2", "k3"] = "k2"
    """Which."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        ratio_T = target.logprob_T - block.student.logprob_T
        if self.estimator == "k2":
            return ratio_T.square() / 2
        ratio_T = ratio_T.clamp(max=LIMIT)
        return ratio_T.expm1() - ratio_T


class PolicyGradient(Term, kind="policy_gradient"):
    """Policy gradient of the sampled token: -rho * A, rho the ratio of the student to the sampler, clipped as in PPO
    (arXiv:1707.06347).

    The advantage A comes in as a signed weight; with the group's normalised reward it is GRPO (arXiv:2402.03300).
    """

    needs: ClassVar[Support] = Support.SAMPLED
    targeted: ClassVar[bool] = False
    low: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 the ratio may fall where the token is pushed down."""
    high: float = Field(default=0.2, gt=0)
    """How far above 1 it may rise where the token is pulled up."""

    @property
    def corrects(self) -> bool:
        return True

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        ratio_T = self._ratio(block)
        clipped_T = ratio_T.clamp(1 - self.low, 1 + self.high)
        return -ratio_T.minimum(clipped_T).where(target.weight_T >= 0, ratio_T.maximum(clipped_T))

    def observe(self, block: BlockView, target: Opinion) -> Mapping[str, Tensor]:
        ratio_T = self._ratio(block)
        clipped_T = (ratio_T > 1 + self.high).where(target.weight_T >= 0, ratio_T < 1 - self.low)
        return {"clipped": clipped_T.to(ratio_T.dtype)}

    def _ratio(self, block: BlockView) -> Tensor:
        return (block.student.logprob_T - block.tokens.behaviour.logprob_T).clamp(max=LIMIT).exp()


class Reinforce(Term, kind="reinforce"):
    """-A log S of the written token, no ratio: the policy gradient of a batch that is used once, by its writer.

    The advantage A comes in as a signed weight. The term has a target so that weights may look at it (its entropy); a
    token that the target says nothing about is left out, and its distribution does not enter.
    """

    needs: ClassVar[Support] = Support.SAMPLED

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return -block.student.logprob_T


class NLL(Term, kind="nll"):
    """Negative log-likelihood of the written token: supervised learning."""

    needs: ClassVar[Support] = Support.SAMPLED
    targeted: ClassVar[bool] = False

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return -block.student.logprob_T


class Unlikelihood(Term, kind="unlikelihood"):
    """-log(1 - S(y)) of the written token (arXiv:1908.04319): makes it less likely, most where it is near certain.

    Which tokens are unwanted is said by weights. At S(y) = 1 the loss is bounded by the dtype's rounding.
    """

    needs: ClassVar[Support] = Support.SAMPLED
    targeted: ClassVar[bool] = False

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return -(-block.student.logprob_T.clamp(max=-1e-7).expm1()).log()


class Redescending(Term, kind="redescending"):
    """log 2 - softplus(-delta^2 / 2 tau): 0 where both agree, flat where they are far apart; steepest at 1.2 nats for
    tau 1."""

    needs: ClassVar[Support] = Support.SAMPLED
    tau: float = Field(default=1.0, gt=0)
    """Width."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return redescending(target.logprob_T - block.student.logprob_T, self.tau)


class LocalSupport(Term, kind="local_support"):
    """The same of KL(T || S) in the place of delta, over the target's likeliest ids, the written token and the rest:
    SGSD's other mode (arXiv:2605.28791). Whole distributions are compared whole."""

    needs: ClassVar[Support] = Support.TOPK
    tau: float = Field(default=1.0, gt=0)
    """Width."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        student_TK, target_TK = block.pair(target)
        terms_TK = target_TK.exp() * (target_TK - student_TK)
        if target.ids_TK is None:
            return redescending(terms_TK.sum(-1), self.tau)
        named_T = (target.ids_TK == block.tokens.token_T[:, None]).any(-1)
        own_T, said_T = block.student.logprob_T, target.logprob_T
        rest_T = _without(target_TK[:, -1], said_T)
        apart_T = said_T.exp() * (said_T - own_T) + rest_T.exp() * (rest_T - _without(student_TK[:, -1], own_T))
        return redescending(terms_TK[:, :-1].sum(-1) + terms_TK[:, -1].where(named_T, apart_T), self.tau)


def redescending(gap_T: Tensor, tau: float) -> Tensor:
    """log 2 - softplus(-gap^2 / 2 tau)."""
    return log(2) - (-gap_T.square() / (2 * tau)).exp().log1p()


def _without(tail_T: Tensor, logprob_T: Tensor) -> Tensor:
    """What is left of a tail without one of its tokens."""
    return tail_T + (-(logprob_T - tail_T).clamp(max=-1e-9).expm1()).log()


class SamplerKL(Term, kind="sampler_kl"):
    """KL(S || B) from the written token, B who wrote it: rho log rho - rho + 1 with rho = S / B, never negative, of the
    KL's own value and gradient in expectation over B. It holds the student to where its rollouts came from."""

    needs: ClassVar[Support] = Support.SAMPLED
    targeted: ClassVar[bool] = False

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        behaviour = block.tokens.behaviour
        return sampler_drift(block.student.logprob_T, behaviour.logprob_T) * behaviour.present_T


def sampler_drift(logprob_T: Tensor, written_T: Tensor) -> Tensor:
    """rho log rho - rho + 1 [T], of the student's log-probability and its writer's."""
    rho_T = (logprob_T - written_T).clamp(min=-LIMIT, max=LIMIT).exp()
    return (rho_T * rho_T.log() - rho_T + 1).clamp(min=0)
