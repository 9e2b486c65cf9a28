"""Divergences between the target and the student, per token, event by event: the whole vocabulary, or some ids and a
tail.

T is the target, S the student, s and t their log-probabilities, z the student's logits. Directions follow GKD
(arXiv:2306.13649): forward KL is KL(T || S), reverse KL is KL(S || T). Log-probabilities come floored at a large
negative number instead of minus infinity, so that p * log p is 0 where p is 0.

Every one with a mixture m = a T + b S, a + b = 1, has its gradient from two quantities:

    w = b S / m         in [0, 1]: the student's share of the mixture
    A = s - log m       how far the student is above the mixture

    d KL(T || m) / dz = S E_T[w] - T w   (b = 1: S - T)
    d KL(S || m) / dz = S (A - w - E_S[A - w])   (b = 0: S (A - E_S[A]))
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from preceptor_trainer.recipe import Divergence
from preceptor_trainer.views import BlockView, Opinion

if TYPE_CHECKING:
    from torch import Tensor


class Pointwise(Divergence):
    """A divergence that is a sum over events, which may be clipped event by event, or token by token."""

    one_sided: ClassVar[bool] = True
    """Whether contributions may be negative: a clip from above then turns the sum below zero, and its gradient away
    from the target, where the two disagree on a likely token."""
    clip: float | None = Field(default=None, gt=0)
    """Largest contribution of one event, as OPSD's later releases do (0.05); None: no clip. A clipped event has no
    gradient. Only where no contribution is negative (`jsd`) does it merely saturate: a KL's sum may turn negative."""
    clip_by: Literal["event", "token"] = "event"
    """What `clip` bounds. `token`: the sum instead; a token above it keeps its direction, scaled down to the bound."""

    @abstractmethod
    def terms(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        """What each event adds to the divergence [T, K]."""

    @abstractmethod
    def closed(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence [T] and gradient on the student's logits [T, K], without a clip."""

    def compare(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        terms_TK = self.terms(student_TK, target_TK)
        if self.clip is not None and self.clip_by == "event":
            return terms_TK.clamp(max=self.clip).sum(-1)
        loss_T = terms_TK.sum(-1)
        return loss_T if self.clip is None else loss_T * _within(loss_T, self.clip)

    def gradient(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.clip is not None and self.clip_by == "event":
            return None
        loss_T, grad_TK = self.closed(student_TK, target_TK)
        if self.clip is None:
            return loss_T, grad_TK
        share_T = _within(loss_T, self.clip)
        return loss_T * share_T, grad_TK.mul_(share_T[:, None])

    def observe(self, block: BlockView, target: Opinion) -> Mapping[str, Tensor]:
        if self.clip is None:
            return {}
        terms_TK = self.terms(*block.pair(target))
        if self.clip_by == "token":
            return {"clipped": (terms_TK.sum(-1) > self.clip).to(target.logprob_T.dtype)}
        touched_TK = (terms_TK > self.clip).to(target.logprob_T.dtype)
        told = {"clipped": touched_TK.mean(-1)}
        if self.one_sided:
            below_T = terms_TK.clamp(max=self.clip).sum(-1) < 0
            told |= {"clipped_tokens": touched_TK.amax(-1), "negative": below_T.to(touched_TK.dtype)}
        return told


class ForwardKL(Pointwise, kind="forward_kl"):
    """KL(T || S) = sum T (t - s): mass-covering. d/dz = S - T."""

    def terms(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        return target_TK.exp() * (target_TK - student_TK)

    def closed(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor]:
        share_TK = target_TK.exp()
        loss_T = (share_TK * (target_TK - student_TK)).sum(-1)
        return loss_T, student_TK.exp().sub_(share_TK)


class ReverseKL(Pointwise, kind="reverse_kl"):
    """KL(S || T) = sum S (s - t): mode-seeking. d/dz = S (d - KL), d = s - t."""

    def terms(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        return student_TK.exp() * (student_TK - target_TK)

    def closed(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor]:
        own_TK, above_TK = student_TK.exp(), student_TK - target_TK
        loss_T = (own_TK * above_TK).sum(-1)
        return loss_T, above_TK.sub_(loss_T[:, None]).mul_(own_TK)


class JSD(Pointwise, kind="jsd"):
    """Generalised Jensen-Shannon divergence of GKD: beta*KL(T || m) + (1-beta)*KL(S || m), m = beta*T + (1-beta)*S.

    d/dz = (1-beta) S (A - E_S[A]). Bounded by ln 2 at beta = 0.5. The ends are not the KLs but 0: use `forward_kl` and
    `reverse_kl` for those.
    """

    one_sided: ClassVar[bool] = False
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Share of the target in the mixture."""

    def terms(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        mixture_TK = _mixture(student_TK, target_TK, self.beta)
        to_target_TK = target_TK.exp() * (target_TK - mixture_TK)
        return self.beta * to_target_TK + (1 - self.beta) * student_TK.exp() * (student_TK - mixture_TK)

    def closed(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor]:
        mixture_TK = _mixture(student_TK, target_TK, self.beta)
        to_target_T = (target_TK.exp() * (target_TK - mixture_TK)).sum(-1)
        own_TK, above_TK = student_TK.exp(), mixture_TK.sub_(student_TK).neg_()
        to_student_T = (own_TK * above_TK).sum(-1)
        grad_TK = above_TK.sub_(to_student_T[:, None]).mul_(own_TK).mul_(1 - self.beta)
        return self.beta * to_target_T + (1 - self.beta) * to_student_T, grad_TK


class SkewForwardKL(Pointwise, kind="skew_forward_kl"):
    """Skew KL of DistiLLM (arXiv:2402.03898): KL(T || m), m = alpha*T + (1-alpha)*S. Finite where the student gives 0.

    d/dz = S E_T[w] - T w. At alpha = 0 it is `forward_kl`.
    """

    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target in the mixture."""

    def terms(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        return target_TK.exp() * (target_TK - _mixture(student_TK, target_TK, self.alpha))

    def closed(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor]:
        mixture_TK, share_TK = _mixture(student_TK, target_TK, self.alpha), target_TK.exp()
        loss_T = (share_TK * (target_TK - mixture_TK)).sum(-1)
        pulled_TK = share_TK.mul_((student_TK + log(1 - self.alpha) - mixture_TK).exp_())
        return loss_T, student_TK.exp().mul_(pulled_TK.sum(-1, keepdim=True)).sub_(pulled_TK)


class SkewReverseKL(Pointwise, kind="skew_reverse_kl"):
    """Skew reverse KL of DistiLLM (arXiv:2402.03898): KL(S || m), m = (1-alpha)*T + alpha*S. Bounded by -log alpha.

    d/dz = S (A - w - E_S[A - w]). At alpha = 0 it is `reverse_kl`.
    """

    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Share of the student in the mixture."""

    def terms(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        return student_TK.exp() * (student_TK - _mixture(student_TK, target_TK, 1 - self.alpha))

    def closed(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor]:
        own_TK, above_TK = student_TK.exp(), student_TK - _mixture(student_TK, target_TK, 1 - self.alpha)
        loss_T = (own_TK * above_TK).sum(-1)
        if self.alpha > 0:
            # w = alpha S / m = alpha exp(A)
            above_TK = above_TK - above_TK.exp().mul_(self.alpha)
        mean_T = (own_TK * above_TK).sum(-1)
        return loss_T, above_TK.sub_(mean_T[:, None]).mul_(own_TK)


def _within(loss_T: Tensor, bound: float) -> Tensor:
    """What each loss is multiplied with so that none is above the bound."""
    return (bound / loss_T.detach().clamp(min=bound)).clamp(max=1.0)


def _mixture(student_TK: Tensor, target_TK: Tensor, share: float) -> Tensor:
    """log(share * T + (1 - share) * S), without leaving the log domain: both may be far below what exp() can say."""
    if share == 0:
        return student_TK.clone()
    if share == 1:
        return target_TK.clone()
    return (target_TK + log(share)).logaddexp(student_TK + log(1 - share))
