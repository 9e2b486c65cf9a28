"""The composing loss: it knows no method. A recipe's target, weights and terms are composed block by block.

Per block of tokens the student's logits come from its hidden states and head, the teachers' from theirs (or their
sparse support is taken); the recipe's parts compose them into a loss per token; the gradient on the logits is folded
into hidden states and head. [T, V] never exists: memory is one block, [block, V] per opinion.

A denominator is global: it is known before the first block, so blocks and microbatches only add up numerators.
Shape letters: T tokens of the global batch, D hidden, V vocabulary, K support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from preceptor_trainer.batch import Batch
from preceptor_trainer.blocks import TeacherDisagrees, blocks, log_softmax, walk
from preceptor_trainer.diagnostics import Sums, diagnose
from preceptor_trainer.gradients import HeadGradient, OnLogits
from preceptor_trainer.model import Head
from preceptor_trainer.products import onto_hidden
from preceptor_trainer.recipe import Recipe, Target, Term, at
from preceptor_trainer.views import BlockView, Opinion, Scalars, TokenView
from preceptor_trainer.weighing import TermWeights, target_of

__all__ = [
    "NonFiniteLoss",
    "Sums",
    "TeacherDisagrees",
    "blank_scalars",
    "blocks",
    "first_pass",
    "fold",
    "log_softmax",
]


class NonFiniteLoss(FloatingPointError):
    """A term gave NaN or infinity on a token that counts."""


def fold(
    recipe: Recipe,
    batch: Batch,
    view: TokenView,
    plans: Sequence[TermWeights],
    head: Head,
    hidden_TD: Tensor,
    start: int,
    block_tokens: int | None = None,
) -> tuple[Tensor, Sums]:
    """Loss and gradient of tokens start .. start + len(hidden_TD) - 1 of the batch.

    Returns the gradient with respect to `hidden_TD` and the sums; the head's gradient accumulates on its parameters.
    `block_tokens` are worked on at a time; None: as many as the budget for logits allows. Raises NonFiniteLoss, naming
    the term, and TeacherDisagrees.
    """
    sums = Sums()
    grad_TD = torch.zeros_like(hidden_TD, requires_grad=False)
    on_head = HeadGradient(head.weight_VD, head.bias_V)
    compute = Head(head.weight_VD.detach().to(hidden_TD.dtype), head.bias_V)
    with torch.no_grad():
        for block in walk(batch, compute, hidden_TD, start, block_tokens):
            moves = False
            for begin, end in block.chunks():
                seen = block.view(batch, view, begin, end)
                grad_TV = _chunk(recipe, batch.step, seen, plans, begin, end, sums)
                diagnose(seen, sums)
                mine_TV = block.student_TV[begin - block.begin : end - block.begin]
                if grad_TV is None:
                    mine_TV.zero_()
                else:
                    mine_TV.copy_(grad_TV)
                    moves = True
            if moves:
                onto_hidden(block.student_TV, compute.weight_VD, grad_TD[block.begin - start : block.end - start])
                on_head.add(block.student_TV, block.hidden_TD)
    on_head.close()
    return grad_TD, sums


def _chunk(
    recipe: Recipe, step: int, block: BlockView, plans: Sequence[TermWeights], begin: int, end: int, sums: Sums
) -> Tensor | None:
    """The gradient on a chunk's logits; None where no term counts."""
    on_logits, targets = OnLogits(block), _Targets(block)
    for index, (term, plan) in enumerate(zip(recipe.objective, plans, strict=True)):
        if plan.denominator == 0:
            continue
        label = f"{term.kind}_{index}" if len(recipe.objective) > 1 else term.kind
        factor = at(term.coefficient, step) / plan.denominator
        for k, opinion in enumerate(targets.of(term, recipe)):
            weight_T = plan.weight_T[k][begin:end]
            # A clipped surrogate needs to know which way this token is pushed: its final weight rides on the opinion.
            weighed = replace(opinion, weight_T=weight_T)
            loss_T = on_logits.add(term, weighed, factor * weight_T)
            loss_T = torch.where(weight_T != 0, loss_T, torch.zeros_like(loss_T))
            _must_be_finite(loss_T, f"objective[{index}] ({term.kind})", step)
            sums.loss += float((weight_T * loss_T).sum()) * factor
            sums.term(label, loss_T, weight_T, term.observe(block, weighed))
    return on_logits.grad_TV


class _Targets:
    """What terms are held against in a chunk; a target that several terms share is composed once."""

    def __init__(self, block: BlockView) -> None:
        self._block = block
        self._known: dict[int, Sequence[Opinion]] = {}

    def of(self, term: Term, recipe: Recipe) -> Sequence[Opinion]:
        if not term.targeted:
            return (self._block.student,)
        target: Target = target_of(term, recipe)
        if id(target) not in self._known:
            self._known[id(target)] = target(self._block)
        return self._known[id(target)]


def _must_be_finite(loss_T: Tensor, what: str, step: int) -> None:
    broken = ~torch.isfinite(loss_T)
    if bool(broken.any()):
        raise NonFiniteLoss(
            f"{what} gave {float(loss_T[broken][0])} at step {step}; look at the step's samples, "
            "and lower the learning rate if the student has diverged"
        )


@torch.no_grad()
def first_pass(
    recipe: Recipe, batch: Batch, head: Head, hidden_TD: Tensor, block_tokens: int | None = None
) -> tuple[Scalars, list[list[Scalars]]]:
    """The student's scalars, and those of every term's target opinions, over the whole batch. No gradient.

    `hidden_TD` is the student's, of all T tokens. Needed only where the recipe weighs anything.
    """
    blank = blank_scalars(batch, hidden_TD.dtype)
    view = batch.view(blank)
    student_parts: list[Scalars] = []
    opinion_parts: list[list[list[Scalars]]] = [[] for _ in recipe.objective]
    for block in walk(batch, head, hidden_TD, 0, block_tokens):
        for begin, end in block.chunks():
            seen = block.view(batch, view, begin, end)
            targets = _Targets(seen)
            student_parts.append(_summary(seen.student))
            for index, term in enumerate(recipe.objective):
                opinion_parts[index].append([_summary(opinion) for opinion in targets.of(term, recipe)])
    if not student_parts:
        return blank, [[] for _ in recipe.objective]
    return _join(student_parts), [[_join(list(k)) for k in zip(*parts, strict=True)] for parts in opinion_parts]


def blank_scalars(batch: Batch, dtype: torch.dtype) -> Scalars:
    """The student's presence and weight where its log-probabilities are not known yet (NaN, so that nobody reads
    them)."""
    ones_T = torch.ones(batch.tokens, dtype=dtype, device=batch.token_T.device)
    return Scalars(logprob_T=ones_T * float("nan"), present_T=ones_T, weight_T=ones_T)


def _summary(opinion: Opinion) -> Scalars:
    entropy_T = None
    if opinion.logprobs_TK is not None and opinion.ids_TK is None:
        entropy_T = -(opinion.logprobs_TK.exp() * opinion.logprobs_TK).sum(-1)
    return Scalars(
        logprob_T=opinion.logprob_T, present_T=opinion.present_T, weight_T=opinion.weight_T, entropy_T=entropy_T
    )


def _join(parts: list[Scalars]) -> Scalars:
    entropies = [part.entropy_T for part in parts]
    return Scalars(
        logprob_T=torch.cat([part.logprob_T for part in parts]),
        present_T=torch.cat([part.present_T for part in parts]),
        weight_T=torch.cat([part.weight_T for part in parts]),
        entropy_T=None
        if any(each is None for each in entropies)
        else torch.cat([e for e in entropies if e is not None]),
    )
