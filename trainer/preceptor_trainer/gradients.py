"""The gradient of a term on the student's logits, by the cheapest way that is exact.

    reads the written token alone      autograd on [T] numbers, then the softmax's own derivative
    a divergence on a sparse support   hand-derived (or autograd) on [T, K] events, then the tail's mass is shared out
    a divergence on the vocabulary     hand-derived on [T, V]
    anything else                      autograd on the log-probabilities [T, V] of a chunk

Shape letters: T tokens of a chunk, V vocabulary, K support. S is the student's distribution, s its logarithm.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from preceptor.wire.teachers import Support
from preceptor_trainer.products import onto_head
from preceptor_trainer.recipe import Divergence, Term
from preceptor_trainer.views import BlockView, Opinion


class OnLogits:
    """A chunk's gradient on the student's logits, summed over terms and opinions."""

    def __init__(self, block: BlockView) -> None:
        self._block = block
        self._logprobs_TV = block.student.distribution()
        self.grad_TV: Tensor | None = None
        """None: nothing was added."""

    def add(self, term: Term, target: Opinion, scale_T: Tensor) -> Tensor:
        """Add the gradient of sum(scale * loss) for this term; returns the loss per token [T], detached.

        `target.weight_T` is the final weight. A token whose scale is 0 adds exactly nothing, whatever its loss is.
        """
        if not term.targeted:
            target = replace(self._block.student, weight_T=target.weight_T)
        if term.needs is Support.SAMPLED:
            return self._by_token(term, target, scale_T)
        if isinstance(term, Divergence) and target.ids_TK is not None:
            return self._by_events(term, target, target.ids_TK, scale_T)
        if isinstance(term, Divergence):
            with torch.no_grad():
                found = term.gradient(*self._block.pair(target))
            if found is not None:
                loss_T, grad_TV = found
                self._put(_scaled(grad_TV, scale_T))
                return loss_T
        return self._by_autograd(term, target, scale_T)

    def _by_token(self, term: Term, target: Opinion, scale_T: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf_T = self._block.student.logprob_T.detach().requires_grad_()
            loss_T = self._call(term, target, replace(self._block.student, logprob_T=leaf_T, logprobs_TK=None))
            grad_T = _scaled(_derivative(loss_T, leaf_T), scale_T)
        # ds_y/dz = [v = y] - S
        grad_TV = self._logprobs_TV.exp().mul_(-grad_T[:, None])
        grad_TV.scatter_add_(-1, self._block.tokens.token_T[:, None], grad_T[:, None])
        self._put(grad_TV)
        return loss_T.detach()

    def _by_events(self, term: Divergence, target: Opinion, ids_TK: Tensor, scale_T: Tensor) -> Tensor:
        own_TK, target_TK = self._block.pair(target)
        found = term.gradient(own_TK, target_TK)
        if found is None:
            with torch.enable_grad():
                leaf_TK = own_TK.detach().requires_grad_()
                loss_T = term.compare(leaf_TK, target_TK)
                found = loss_T.detach(), _through_softmax(_derivative(loss_T, leaf_TK), own_TK)
        loss_T, grad_TK = found[0], _scaled(found[1], scale_T)
        # The tail's logit is the log-sum-exp of those it holds: each has its share of the tail's gradient.
        at_TK, named_TK = ids_TK.clamp(min=0), ids_TK >= 0
        grad_TV = (self._logprobs_TV - own_TK[:, -1:]).clamp_(max=0.0).exp_().mul_(grad_TK[:, -1:])
        change_TK = (grad_TK[:, :-1] - grad_TV.gather(-1, at_TK)).masked_fill(~named_TK, 0.0)
        self._put(grad_TV.scatter_add_(-1, at_TK, change_TK))
        return loss_T

    def _by_autograd(self, term: Term, target: Opinion, scale_T: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf_TV = self._logprobs_TV.detach().requires_grad_()
            logprob_T = leaf_TV.gather(-1, self._block.tokens.token_T[:, None]).squeeze(-1)
            own = replace(self._block.student, logprob_T=logprob_T, logprobs_TK=leaf_TV)
            loss_T = self._call(term, target, own)
            grad_TV = _derivative(loss_T, leaf_TV)
        self._put(_scaled(_through_softmax(grad_TV, self._logprobs_TV), scale_T))
        return loss_T.detach()

    def _call(self, term: Term, target: Opinion, student: Opinion) -> Tensor:
        own = target if term.targeted else replace(student, weight_T=target.weight_T)
        return term(replace(self._block, student=student), own)

    def _put(self, grad_TV: Tensor) -> None:
        self.grad_TV = grad_TV if self.grad_TV is None else self.grad_TV.add_(grad_TV)


def _derivative(loss_T: Tensor, leaf: Tensor) -> Tensor:
    """Of the sum; zero where the loss does not depend on it."""
    if not loss_T.requires_grad:
        return torch.zeros_like(leaf)
    (grad,) = torch.autograd.grad(loss_T.sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad


def _through_softmax(grad_TK: Tensor, logprobs_TK: Tensor) -> Tensor:
    """What is a gradient on log-probabilities, on the logits."""
    return grad_TK - logprobs_TK.exp().mul_(grad_TK.sum(-1, keepdim=True))


def _scaled(grad: Tensor, scale_T: Tensor) -> Tensor:
    """By token; exactly 0 where the scale is."""
    shape = (-1, *[1] * (grad.dim() - 1))
    return torch.where(scale_T.view(shape) != 0, grad * scale_T.view(shape), torch.zeros((), dtype=grad.dtype))


class HeadGradient:
    """Where a head's gradient is gathered, block by block: its own `.grad`, without a temporary of its size.

    A head that is itself computed (adapters merged into it) gathers beside it; `close` sends the sum on.
    """

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None) -> None:
        self._weight_VD, self._bias_V = weight_VD, bias_V
        self._sums = [_gather(each) for each in (weight_VD, bias_V)]

    def add(self, grad_TV: Tensor, hidden_TD: Tensor) -> None:
        """One block's: the gradient on its logits, and its hidden states."""
        weight_VD, bias_V = self._sums
        if weight_VD is not None:
            onto_head(grad_TV, hidden_TD, weight_VD)
        if bias_V is not None:
            bias_V.add_(grad_TV.sum(0, dtype=torch.promote_types(bias_V.dtype, torch.float32)))

    def close(self) -> None:
        """Send on what was gathered beside a computed head."""
        for each, sums in zip((self._weight_VD, self._bias_V), self._sums, strict=True):
            if each is not None and sums is not None and not each.is_leaf:
                each.backward(sums, retain_graph=True)


def _gather(parameter: Tensor | None) -> Tensor | None:
    if parameter is None or not parameter.requires_grad:
        return None
    if not parameter.is_leaf:
        return torch.zeros_like(parameter)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
