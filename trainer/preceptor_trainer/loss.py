"""The composing loss: it knows no method. A recipe's target, weights and terms are composed block by block.

Per block of tokens the student's logits come from its hidden states and head, the teachers' from theirs; the recipe's
parts compose them into a loss per token; the gradient is folded into hidden states and head. [T, V] never exists:
memory is one block, [block, V] per opinion.

A denominator is global: it is known before the first block, so blocks and microbatches only add up numerators.
Shape letters: T tokens of the global batch, D hidden, V vocabulary, K support (here V).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from preceptor.errors import BadScores
from preceptor_trainer.batch import Batch, Slot, narrow_view
from preceptor_trainer.model import Head
from preceptor_trainer.recipe import Recipe, Support, Term, at
from preceptor_trainer.views import BlockView, Opinion, Scalars, TokenView
from preceptor_trainer.weighing import TermWeights, target_of

FLOOR = -1e4
"""Log-probabilities are floored here: exp(FLOOR) is 0 in float32 and float64, and 0 * FLOOR is 0 where 0 * -inf is
NaN."""

AGREEMENT = 0.05
"""Nats by which a teacher's answered log-probability may differ from the one its hidden state and head give (bf16:
0.02)."""


class NonFiniteLoss(FloatingPointError):
    """A term gave NaN or infinity on a token that counts."""


class TeacherDisagrees(BadScores):
    """A teacher's hidden states and head do not give the log-probabilities it answered."""

    slug, title = "teacher-disagrees", "Teacher disagrees with itself"


def log_softmax(hidden_TD: Tensor, head: Head) -> Tensor:
    """Floored log-probabilities [T, V], in float32 at least."""
    logits_TV = torch.nn.functional.linear(hidden_TD, head.weight_VD, head.bias_V)
    precise = torch.promote_types(logits_TV.dtype, torch.float32)
    return torch.log_softmax(logits_TV, dim=-1, dtype=precise).clamp(min=FLOOR)


@dataclass(slots=True)
class Sums:
    """Sums over the tokens that were walked; `per_token` divides them."""

    tokens: int = 0
    values: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    loss: float = 0.0

    def add(self, name: str, values_T: Tensor) -> None:
        self.values[name] += float(values_T.detach().sum())

    def per_token(self) -> dict[str, float]:
        return {name: value / max(self.tokens, 1) for name, value in self.values.items()}


def blocks(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive token ranges of at most `size`."""
    for begin in range(start, stop, size):
        yield begin, min(begin + size, stop)


def opinions_of(term: Term, recipe: Recipe, block: BlockView) -> Sequence[Opinion]:
    """What the term is held against in this block."""
    return target_of(term, recipe)(block) if term.targeted else (block.student,)


def block_view(
    batch: Batch, view: TokenView, head: Head, hidden_TD: Tensor, start: int, stop: int, support: Support
) -> BlockView:
    """Distributions of tokens start .. stop-1. `hidden_TD` is that block's student hidden states, with gradient."""
    tokens = narrow_view(view, start, stop)
    student_TV = log_softmax(hidden_TD, head)
    logprob_T = student_TV.gather(-1, tokens.token_T[:, None]).squeeze(-1)
    student = Opinion(
        logprob_T=logprob_T,
        present_T=tokens.student.present_T,
        weight_T=tokens.student.weight_T,
        logprobs_TK=student_TV,
    )
    with torch.no_grad():
        contexts = {
            name: tuple(_opinion(slot, tokens.token_T, start, stop, support) for slot in slots)
            for name, slots in batch.slots.items()
        }
    return BlockView(student=student, contexts=contexts, tokens=tokens)


def _opinion(slot: Slot, token_T: Tensor, start: int, stop: int, support: Support) -> Opinion:
    present_T, weight_T = slot.present_T[start:stop], slot.weight_T[start:stop]
    answered_T = slot.logprob_T[start:stop]
    if support is Support.SAMPLED:
        return Opinion(logprob_T=answered_T, present_T=present_T, weight_T=weight_T)
    if slot.hidden_TD is None or slot.head is None:
        raise ValueError(
            f"context '{slot.context}': the recipe compares whole distributions, but teacher '{slot.role}' sent no "
            "hidden states; ask it for support `full`"
        )
    logprobs_TV = log_softmax(slot.hidden_TD[start:stop], slot.head)
    logprob_T = logprobs_TV.gather(-1, token_T[:, None]).squeeze(-1)
    gap = float(((logprob_T - answered_T).abs() * present_T).amax()) if len(token_T) else 0.0
    if not gap <= AGREEMENT * max(1.0, float(answered_T.abs().amax()) if len(token_T) else 1.0):
        raise TeacherDisagrees(
            f"context '{slot.context}': teacher '{slot.role}' answered log-probabilities that differ by {gap:.3g} nats "
            "from those its hidden states and head give.",
            teacher=slot.role,
            remedy="Its head is of other weights, or its numbers are broken: probe it again.",
        )
    return Opinion(logprob_T=logprob_T, present_T=present_T, weight_T=weight_T, logprobs_TK=logprobs_TV)


def fold(
    recipe: Recipe,
    batch: Batch,
    view: TokenView,
    plans: Sequence[TermWeights],
    head: Head,
    hidden_TD: Tensor,
    start: int,
    block_tokens: int = 512,
) -> tuple[Tensor, Sums]:
    """Loss and gradient of tokens start .. start + len(hidden_TD) - 1 of the batch.

    Returns the gradient with respect to `hidden_TD` and the sums; the head's gradient accumulates on its parameters.
    Raises NonFiniteLoss, naming the term.
    """
    leaf_TD, sums = hidden_TD.detach(), Sums()
    grad_TD = torch.zeros_like(leaf_TD)
    for begin, end in blocks(start, start + len(leaf_TD), block_tokens):
        block_TD = leaf_TD[begin - start : end - start].clone().requires_grad_()
        block = block_view(batch, view, head, block_TD, begin, end, recipe.support)
        loss = _block_loss(recipe, batch.step, block, plans, begin, end, sums)
        if loss is not None:
            loss.backward()
            sums.loss += float(loss.detach())
            if block_TD.grad is not None:
                grad_TD[begin - start : end - start] = block_TD.grad
        _diagnose(recipe, block, sums)
    return grad_TD, sums


def _block_loss(
    recipe: Recipe, step: int, block: BlockView, plans: Sequence[TermWeights], begin: int, end: int, sums: Sums
) -> Tensor | None:
    loss: Tensor | None = None
    for index, (term, plan) in enumerate(zip(recipe.objective, plans, strict=True)):
        if plan.denominator == 0:
            continue
        for k, opinion in enumerate(opinions_of(term, recipe, block)):
            weight_T = plan.weight_T[k][begin:end]
            # A clipped surrogate needs to know which way this token is pushed: its final weight rides on the opinion.
            weighed = replace(opinion, weight_T=weight_T)
            loss_T = torch.where(weight_T != 0, term(block, weighed), torch.zeros_like(weight_T))
            _must_be_finite(loss_T.detach(), f"objective[{index}] ({term.kind})", step)
            sums.add(f"{term.kind}_{index}" if len(recipe.objective) > 1 else term.kind, weight_T * loss_T)
            part = at(term.coefficient, step) * (weight_T * loss_T).sum() / plan.denominator
            loss = part if loss is None else loss + part
    return loss


def _must_be_finite(loss_T: Tensor, what: str, step: int) -> None:
    broken = ~torch.isfinite(loss_T)
    if bool(broken.any()):
        raise NonFiniteLoss(
            f"{what} gave {float(loss_T[broken][0])} at step {step}; look at the step's samples, "
            "and lower the learning rate if the student has diverged"
        )


@torch.no_grad()
def _diagnose(recipe: Recipe, block: BlockView, sums: Sums) -> None:
    student_TV = block.student.logprobs_TK
    assert student_TV is not None
    sums.tokens += len(student_TV)
    sums.add("student_entropy", -(student_TV.exp() * student_TV).sum(-1))
    for name, opinions in block.contexts.items():
        for opinion in opinions[:1]:
            sums.add(f"{name}/log_ratio", (opinion.logprob_T - block.student.logprob_T) * opinion.present_T)
            if opinion.logprobs_TK is not None:
                entropy_T = -(opinion.logprobs_TK.exp() * opinion.logprobs_TK).sum(-1)
                same_T = (opinion.logprobs_TK.argmax(-1) == student_TV.argmax(-1)).to(entropy_T.dtype)
                sums.add(f"{name}/entropy", entropy_T * opinion.present_T)
                sums.add(f"{name}/top1_agreement", same_T * opinion.present_T)


@torch.no_grad()
def first_pass(
    recipe: Recipe, batch: Batch, head: Head, hidden_TD: Tensor, block_tokens: int = 512
) -> tuple[Scalars, list[list[Scalars]]]:
    """The student's scalars, and those of every term's target opinions, over the whole batch. No gradient.

    `hidden_TD` is the student's, of all T tokens. Needed only where the recipe weighs anything.
    """
    blank = blank_scalars(batch, hidden_TD.dtype)
    view = batch.view(blank)
    student_parts: list[Scalars] = []
    opinion_parts: list[list[list[Scalars]]] = [[] for _ in recipe.objective]
    for begin, end in blocks(0, batch.tokens, block_tokens):
        block = block_view(batch, view, head, hidden_TD[begin:end], begin, end, recipe.support)
        student_parts.append(_summary(block.student))
        for index, term in enumerate(recipe.objective):
            opinion_parts[index].append([_summary(opinion) for opinion in opinions_of(term, recipe, block)])
    if not student_parts:
        return blank, [[] for _ in recipe.objective]
    return _join(student_parts), [[_join(list(k)) for k in zip(*parts, strict=True)] for parts in opinion_parts]


def blank_scalars(batch: Batch, dtype: torch.dtype) -> Scalars:
    """The student's presence and weight where its log-probabilities are not known yet (NaN, so that nobody reads
    them)."""
    ones_T = torch.ones(batch.tokens, dtype=dtype)
    return Scalars(logprob_T=ones_T * float("nan"), present_T=ones_T, weight_T=ones_T)


def _summary(opinion: Opinion) -> Scalars:
    logprobs_TK = opinion.logprobs_TK
    entropy_T = None if logprobs_TK is None else -(logprobs_TK.exp() * logprobs_TK).sum(-1)
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
