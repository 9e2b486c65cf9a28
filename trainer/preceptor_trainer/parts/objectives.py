"""Terms of the objective: how far the student is from the target, per token.

Directions follow GKD (arXiv:2306.13649): forward KL is KL(target || student), reverse KL is KL(student || target).
Log-probabilities come floored at a large negative number instead of minus infinity, so that p * log p is 0 where p
is 0.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from preceptor.wire.teachers import Support
from preceptor_trainer.recipe import Term
from preceptor_trainer.views import BlockView, Opinion

if TYPE_CHECKING:
    from torch import Tensor


def distribution(opinion: Opinion) -> Tensor:
    """Log-probabilities [T, K] over the support. Raises where only the sampled token was scored."""
    if opinion.logprobs_TK is None:
        raise ValueError(
            "this term compares distributions, but only the sampled token was scored; ask for support `full`"
        )
    return opinion.logprobs_TK


class ForwardKL(Term, kind="forward_kl"):
    """KL(target || student): mass-covering. Gradient on the student's logits: S - T."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        student_TK, target_TK = distribution(block.student), distribution(target)
        return (target_TK.exp() * (target_TK - student_TK)).sum(-1)


class ReverseKL(Term, kind="reverse_kl"):
    """KL(student || target): mode-seeking. Gradient on the student's logits: S * (d - KL), d = log S - log T."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        student_TK, target_TK = distribution(block.student), distribution(target)
        return (student_TK.exp() * (student_TK - target_TK)).sum(-1)


class JSD(Term, kind="jsd"):
    """Generalised Jensen-Shannon divergence of GKD: beta*KL(T || m) + (1-beta)*KL(S || m), m = beta*T + (1-beta)*S.

    Bounded by ln 2 at beta = 0.5. The ends are not the KLs but 0: use `forward_kl` and `reverse_kl` for those.
    """

    beta: float = Field(default=0.5, gt=0, lt=1)
    """Share of the target in the mixture."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        student_TK, target_TK = distribution(block.student), distribution(target)
        mixture_TK = (target_TK + log(self.beta)).logaddexp(student_TK + log(1 - self.beta))
        to_target_T = (target_TK.exp() * (target_TK - mixture_TK)).sum(-1)
        to_student_T = (student_TK.exp() * (student_TK - mixture_TK)).sum(-1)
        return self.beta * to_target_T + (1 - self.beta) * to_student_T


class SampledReverseKL(Term, kind="sampled_reverse_kl"):
    """Policy gradient on the sampled token with advantage log T - log S (detached), after Thinking Machines' OPD.

    In expectation over the student's own samples its gradient is that of the per-token reverse KL; its value is not.
    """

    needs: ClassVar[Support] = Support.SAMPLED
    importance: bool = True
    """Multiply with the ratio of the current student to the sampler. It is 1 where a batch is used once, by its
    writer."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        logprob_T = block.student.logprob_T
        advantage_T = target.logprob_T - logprob_T.detach()
        written_T = block.tokens.behaviour.logprob_T if self.importance else logprob_T.detach()
        return -(logprob_T - written_T).exp() * advantage_T


class NLL(Term, kind="nll"):
    """Negative log-likelihood of the written token: supervised learning."""

    needs: ClassVar[Support] = Support.SAMPLED
    targeted: ClassVar[bool] = False

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return -block.student.logprob_T
