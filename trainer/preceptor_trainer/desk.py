"""Completions that are written side by side: a queue of jobs, the rows at work, and their slots.

A prompt is read once for all completions of it. A row that ends leaves its slot to the next in the queue; once that is
empty, the batch shrinks. Everything that is computed depends on the jobs and their order alone: the same jobs give the
same bits.

Shape letters: B rows at work, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from preceptor_trainer.draws import Completion, Job, draw, uniforms
from preceptor_trainer.model import Model, head_of
from preceptor_trainer.packing import as_taken
from preceptor_trainer.products import faster, product
from preceptor_trainer.seats import Prompts, Read, Slots, token_bytes


@dataclass(slots=True, kw_only=True)
class Row:
    """A completion that is being written."""

    number: int
    """Of its job."""
    job: Job
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    ended: bool = False
    """Its last token is an end token."""

    @property
    def done(self) -> bool:
        return self.ended or len(self.tokens) >= self.job.max_tokens

    @property
    def held(self) -> int:
        """Tokens whose keys and values are in its slot: all but the last one written."""
        return len(self.job.prompt_ids) + len(self.tokens) - 1

    def completion(self) -> Completion:
        return Completion(token_ids=tuple(self.tokens), logprobs=tuple(self.logprobs), finished=self.ended)


class Desk:
    """For models whose layers look at everything before (`packable`)."""

    def __init__(
        self,
        model: Model,
        work: Sequence[tuple[int, Job]],
        temperature: float,
        max_rows: int,
        cache_bytes: int,
        ends: Collection[int],
    ) -> None:
        """`work`: jobs and their numbers, those of one prompt next to each other, long prompts first. `ends`: ids that
        end a completion.

        At most `max_rows` rows are at work, fewer where their keys and values would take more than `cache_bytes`.
        """
        self._module, self._device = model.module, model.device
        self._ends = ends
        self._temperature = temperature
        self._queue = deque(work)
        self._rows: list[Row] = []
        prompts = [prompt for prompt, _ in groupby(job.prompt_ids for _, job in work)]
        self._prompts = Prompts(self._module, prompts, max_rows)
        capacity = max(len(job.prompt_ids) + job.max_tokens for _, job in work)
        first = self._prompts[prompts[0]]
        self._most = max(1, min(max_rows, len(work), cache_bytes // (capacity * token_bytes(first))))
        self._slots = Slots(first, self._most, capacity)

    def steps(self) -> Iterator[Sequence[tuple[int, Completion]]]:
        """Everything in the queue, token by token: after each, the completions that are finished, with their jobs'
        numbers."""
        while self._queue or self._rows:
            finished = _finished(self._admit())
            self._close_ranks()
            yield finished
            if self._rows:
                self._advance()
                yield _finished(self._rows)

    def _admit(self) -> list[Row]:
        """Slots that are free go to the queue; the new rows, with their first tokens."""
        fresh: list[tuple[int, Read]] = []
        free = [*(at for at, row in enumerate(self._rows) if row.done), *range(len(self._rows), self._most)]
        for at in free[: len(self._queue)]:
            number, job = self._queue.popleft()
            self._rows[at : at + 1] = [Row(number=number, job=job, uniforms=uniforms(job.seed, job.max_tokens))]
            fresh.append((at, self._prompts[job.prompt_ids]))
        rows = [self._rows[at] for at, _ in fresh]
        for _, same in groupby(fresh, key=lambda each: id(each[1].cache)):
            self._slots.fill(*zip(*same, strict=True))
        if fresh:
            self._draw(rows, torch.stack([read.logits_V for _, read in fresh]))
        return rows

    def _close_ranks(self) -> None:
        """The last rows move to the slots of rows that ended and that nobody took."""
        for at in reversed([at for at, row in enumerate(self._rows) if row.done]):
            last = self._rows.pop()
            if at < len(self._rows):
                self._slots.move(len(self._rows), at, last.held)
                self._rows[at] = last

    def _advance(self) -> None:
        """One more token for every row."""
        position_B1, mask_B11K = self._slots.seek([row.held for row in self._rows])
        with faster(self._module, len(self._rows)):
            hidden_B1D = self._module.base_model(
                input_ids=torch.tensor([[row.tokens[-1]] for row in self._rows], device=self._device),
                attention_mask=as_taken(mask_B11K, self._module),
                position_ids=position_B1,
                past_key_values=self._slots,
                use_cache=True,
            ).last_hidden_state
        self._draw(self._rows, product(hidden_B1D[:, 0], *head_of(self._module)))

    def _draw(self, rows: Sequence[Row], logits_BV: Tensor) -> None:
        uniform_B = torch.tensor(
            [row.uniforms[len(row.tokens)] for row in rows], dtype=torch.float64, device=self._device
        )
        token_B, logprob_B = draw(logits_BV, self._temperature, uniform_B)
        for row, token, logprob in zip(rows, token_B.tolist(), logprob_B.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.ended = token in self._ends


def _finished(rows: Sequence[Row]) -> list[tuple[int, Completion]]:
    return [(row.number, row.completion()) for row in rows if row.done]
