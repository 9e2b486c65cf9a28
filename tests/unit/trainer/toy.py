"""Random batches with opinions, for tests of the loss: no model, no service, float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from preceptor_trainer.batch import Batch, Row, Slot, build_batch
from preceptor_trainer.loss import log_softmax
from preceptor_trainer.model import Head
from preceptor_trainer.views import Message, Task, Verdict

V, D = 11, 5
"""Vocabulary and hidden size of the toys."""


def toy_rows(lengths: Sequence[int], group: int = 1, seed: int = 0) -> list[Row]:
    """Rollouts of these completion lengths, `group` to a task, with rewards 1, 0, 1, 0 ..."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Row(
            task=Task(id=f"task-{index // group}", messages=(Message(role="user", content="?"),), answer="a"),
            index=index % group,
            prompt_ids=(1, 2),
            completion_ids=tuple(torch.randint(0, V, (length,), generator=generator).tolist()),
            logprobs=tuple((-3 * torch.rand(length, generator=generator)).tolist()),
            text="",
            verdict=Verdict(reward=float(index % 2 == 0), correct=index % 2 == 0),
        )
        for index, length in enumerate(lengths)
    ]


def toy_slot(
    rows: Sequence[Row],
    context: str,
    seed: int = 1,
    absent: Sequence[int] = (),
    weight: float = 1.0,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Slot:
    """A random opinion on every row but those in `absent`."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([len(row.completion_ids) for row in rows])
    present_T = torch.tensor([float(index not in absent) for index in range(len(rows))], dtype=dtype)
    present_T = present_T.repeat_interleave(lengths)
    hidden_TD = scale * torch.randn(int(lengths.sum()), D, generator=generator, dtype=torch.float64).to(dtype)
    head = Head(weight_VD=torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype))
    return with_head(rows, context, hidden_TD * present_T[:, None], head, present_T, weight)


def with_head(
    rows: Sequence[Row], context: str, hidden_TD: Tensor, head: Head, present_T: Tensor, weight: float = 1.0
) -> Slot:
    """An opinion given by hidden states and a head."""
    token_T = torch.tensor([token for row in rows for token in row.completion_ids], dtype=torch.int64)
    logprobs_TV = log_softmax(hidden_TD, head)
    return Slot(
        context=context,
        role="teacher",
        logprob_T=logprobs_TV.gather(-1, token_T[:, None]).squeeze(-1) * present_T,
        present_T=present_T,
        weight_T=torch.full_like(present_T, weight),
        hidden_TD=hidden_TD,
        head=head,
    )


def toy_batch(rows: Sequence[Row], *slots: Slot, step: int = 1, dtype: torch.dtype = torch.float64) -> Batch:
    """A batch of these rows with these opinions, by context."""
    contexts = {
        name: [slot for slot in slots if slot.context == name] for name in dict.fromkeys(s.context for s in slots)
    }
    return build_batch(rows, contexts, step, dtype)


def toy_student(
    tokens: int, seed: int = 9, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Head]:
    """Hidden states [T, D] and a head whose weight collects gradient."""
    generator = torch.Generator().manual_seed(seed)
    hidden_TD = scale * torch.randn(tokens, D, generator=generator, dtype=torch.float64).to(dtype)
    weight_VD = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden_TD, Head(weight_VD=weight_VD)
