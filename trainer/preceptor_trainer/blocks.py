"""Distributions of a few tokens at a time: logits in blocks, and within a block in chunks that fit a CPU's cache.

A block is as many tokens as the budget for logits allows: products with a head want many rows. What is done to each
logit wants few: a chunk's temporaries stay in cache, and there are a dozen of them. On an accelerator a chunk is a
block.

Shape letters: T tokens (of the batch, a block or a chunk), D hidden, V vocabulary, K support.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor.errors import BadScores
from preceptor_trainer import products
from preceptor_trainer.batch import Batch, Slot, narrow_view
from preceptor_trainer.model import Head
from preceptor_trainer.views import FLOOR, BlockView, Opinion, TokenView

BLOCK_BYTES = 1 << 27
"""Of logits that exist at one time, the student's and the teachers' together: 128 MiB."""
CHUNK_BYTES = 1 << 20
"""Of one temporary of a chunk on a CPU: a dozen of them stay in a cache, and the allocator keeps their pages instead of
handing them back each time (at 4 MiB a step took a quarter more of the CPU's time)."""
AGREEMENT = 0.05
"""Nats by which a teacher's answered log-probability may differ from the one its hidden state and head give (bf16:
0.02)."""


class TeacherDisagrees(BadScores):
    """A teacher's hidden states and head do not give the log-probabilities it answered."""

    slug, title = "teacher-disagrees", "Teacher disagrees with itself"


def blocks(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive token ranges of at most `size`."""
    for begin in range(start, stop, size):
        yield begin, min(begin + size, stop)


def logits(hidden_TD: Tensor, head: Head, out_TV: Tensor | None = None) -> Tensor:
    """[T, V] in the hidden states' dtype, in the first rows of `out_TV` where there is one. No gradient."""
    weight_VD, bias_V = head.weight_VD.detach().to(hidden_TD.dtype), head.bias_V
    with torch.no_grad():
        out_TV = hidden_TD.new_empty(len(hidden_TD), len(weight_VD)) if out_TV is None else out_TV[: len(hidden_TD)]
        logits_TV = products.logits(hidden_TD.detach(), weight_VD, out_TV)
        return logits_TV if bias_V is None else logits_TV.add_(bias_V)


def normalised(logits_TV: Tensor) -> Tensor:
    """Floored log-probabilities [T, V], in float32 at least."""
    precise = torch.promote_types(logits_TV.dtype, torch.float32)
    return torch.log_softmax(logits_TV, dim=-1, dtype=precise).clamp_(min=FLOOR)


def log_softmax(hidden_TD: Tensor, head: Head) -> Tensor:
    """Floored log-probabilities [T, V], in float32 at least. No gradient."""
    return normalised(logits(hidden_TD, head))


@dataclass(slots=True)
class Block:
    """The logits of tokens begin .. end-1, the student's and those of every teacher that sent hidden states."""

    begin: int
    end: int
    hidden_TD: Tensor
    """The student's, without gradient."""
    student_TV: Tensor
    """Logits; what becomes of the gradient on them is written over them."""
    contexts_TV: dict[str, list[Tensor | None]]

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Token ranges of the batch."""
        size = self.end - self.begin
        if self.student_TV.device.type == "cpu":
            size = max(1, CHUNK_BYTES // max(1, self.student_TV.shape[1] * self.student_TV.element_size()))
        return blocks(self.begin, self.end, size)

    def view(self, batch: Batch, view: TokenView, begin: int, end: int) -> BlockView:
        """Distributions of tokens begin .. end-1 of the batch, all without gradient."""
        tokens, mine = narrow_view(view, begin, end), slice(begin - self.begin, end - self.begin)
        own_TV = normalised(self.student_TV[mine])
        student = Opinion(
            logprob_T=_of(own_TV, tokens.token_T),
            present_T=tokens.student.present_T,
            weight_T=tokens.student.weight_T,
            logprobs_TK=own_TV,
        )
        contexts = {
            name: tuple(
                _opinion(slot, None if logits_TV is None else logits_TV[mine], tokens.token_T, begin, end)
                for slot, logits_TV in zip(slots, self.contexts_TV[name], strict=True)
            )
            for name, slots in batch.slots.items()
        }
        return BlockView(student=student, contexts=contexts, tokens=tokens)


def walk(batch: Batch, head: Head, hidden_TD: Tensor, start: int, size: int | None = None) -> Iterator[Block]:
    """Blocks of tokens start .. start + len(hidden_TD) - 1 of the batch, of `size` tokens or what the budget allows.

    The next block overwrites the logits of the one before.
    """
    compute = Head(head.weight_VD.detach().to(hidden_TD.dtype), head.bias_V)
    whole = sum(slot.hidden_TD is not None for slots in batch.slots.values() for slot in slots)
    row = head.weight_VD.shape[0] * hidden_TD.element_size() * (1 + whole)
    size = size or max(16, BLOCK_BYTES // row // 16 * 16)
    # One buffer for each, block after block: two blocks never exist at a time.
    rows = min(size, len(hidden_TD))
    own_TV = hidden_TD.new_empty(rows, head.weight_VD.shape[0], requires_grad=False)
    buffers = {name: [_buffer(slot, rows) for slot in slots] for name, slots in batch.slots.items()}
    for begin, end in blocks(start, start + len(hidden_TD), size):
        block_TD = hidden_TD[begin - start : end - start].detach()
        yield Block(
            begin=begin,
            end=end,
            hidden_TD=block_TD,
            student_TV=logits(block_TD, compute, own_TV),
            contexts_TV={
                name: [_said(slot, begin, end, out_TV) for slot, out_TV in zip(slots, buffers[name], strict=True)]
                for name, slots in batch.slots.items()
            },
        )


def _buffer(slot: Slot, rows: int) -> Tensor | None:
    if slot.hidden_TD is None or slot.head is None:
        return None
    return slot.hidden_TD.new_empty(rows, slot.head.weight_VD.shape[0], requires_grad=False)


def _said(slot: Slot, begin: int, end: int, out_TV: Tensor | None) -> Tensor | None:
    """A teacher's logits, from its hidden states; None where it sent none."""
    if slot.hidden_TD is None or slot.head is None:
        return None
    return logits(slot.hidden_TD[begin:end], slot.head, out_TV)


def _of(logprobs_TV: Tensor, token_T: Tensor) -> Tensor:
    return logprobs_TV.gather(-1, token_T[:, None]).squeeze(-1)


def _opinion(slot: Slot, logits_TV: Tensor | None, token_T: Tensor, begin: int, end: int) -> Opinion:
    present_T, weight_T, answered_T = (each[begin:end] for each in (slot.present_T, slot.weight_T, slot.logprob_T))
    if logits_TV is not None:
        logprobs_TV = normalised(logits_TV)
        logprob_T = _of(logprobs_TV, token_T)
        _agree(slot, logprob_T, answered_T, present_T)
        return Opinion(logprob_T=logprob_T, present_T=present_T, weight_T=weight_T, logprobs_TK=logprobs_TV)
    opinion = Opinion(logprob_T=answered_T, present_T=present_T, weight_T=weight_T)
    if slot.ids_TK is None or slot.logprobs_TK is None or slot.tail_T is None:
        return opinion
    named_TK = torch.cat((slot.logprobs_TK[begin:end], slot.tail_T[begin:end, None]), dim=-1)
    # What a teacher rounds on the way, or an engine computes in bfloat16, sums to one only nearly.
    precise = torch.promote_types(named_TK.dtype, torch.float32)
    logprobs_TK = torch.log_softmax(named_TK, dim=-1, dtype=precise).clamp_(min=FLOOR)
    return Opinion(
        logprob_T=answered_T,
        present_T=present_T,
        weight_T=weight_T,
        logprobs_TK=logprobs_TK,
        ids_TK=slot.ids_TK[begin:end],
    )


def _agree(slot: Slot, logprob_T: Tensor, answered_T: Tensor, present_T: Tensor) -> None:
    if not len(answered_T):
        return
    gap = float(((logprob_T - answered_T).abs() * present_T).amax())
    if not gap <= AGREEMENT * max(1.0, float(answered_T.abs().amax())):
        raise TeacherDisagrees(
            f"context '{slot.context}': teacher '{slot.role}' answered log-probabilities that differ by {gap:.3g} nats "
            "from those its hidden states and head give.",
            teacher=slot.role,
            remedy="Its head is of other weights, or its numbers are broken: probe it again.",
        )
