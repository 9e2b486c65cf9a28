"""The student writes: many completions at once, with the sampler's own log-probabilities.

Every rollout draws from its own stream of uniforms, seeded by the rollout, so what it is batched with does not decide
what it writes; the same jobs give the same bits. A completion ends with the first end token, which belongs to it;
padding is tracked by position, never by id, so a tokenizer whose pad token is its end token is no special case.

Shape letters: B rows, L positions of a padded row, T written positions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from preceptor_trainer.desk import Desk
from preceptor_trainer.draws import Completion, Job, draw, uniforms
from preceptor_trainer.model import Model, eos_ids
from preceptor_trainer.packing import packable

CACHE_BYTES = 1 << 30
"""Keys and values that the rows at work may take; where they would take more, fewer rows are at work."""

Check = Callable[[], None]
"""Called before every token; what it raises ends the work."""


class Sampler(Protocol):
    """Anything that writes completions with the student's current weights."""

    def sample(self, jobs: Sequence[Job], temperature: float) -> list[Completion]:
        """One completion a job, in the jobs' order."""
        ...

    def stream(
        self, jobs: Sequence[Job], temperature: float, check: Check | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """The same with each job's number, each as soon as it is written."""
        ...


class LocalSampler:
    """Samples from a model in this process. Temperature 0 is greedy."""

    def __init__(
        self,
        model: Model,
        max_rows: int = 64,
        cache_bytes: int = CACHE_BYTES,
        ends: Collection[int] | None = None,
    ) -> None:
        """`ends`: ids that end a completion; None: the model's own."""
        self._model = model
        self._max_rows = max_rows
        self._cache_bytes = cache_bytes
        self._ends = eos_ids(model) if ends is None else frozenset(ends)

    def sample(self, jobs: Sequence[Job], temperature: float) -> list[Completion]:
        """One completion a job, in the jobs' order."""
        written = dict(self.stream(jobs, temperature))
        return [written[index] for index in range(len(jobs))]

    def stream(
        self, jobs: Sequence[Job], temperature: float, check: Check | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """The same with each job's number, each as soon as it is written."""
        check, steps = check or _go_on, self.steps(jobs, temperature)
        check()
        for finished in steps:
            yield from finished
            check()

    @torch.inference_mode()
    def steps(self, jobs: Sequence[Job], temperature: float) -> Iterator[Sequence[tuple[int, Completion]]]:
        """The same token by token: after each, what it finished.

        Jobs are ordered by prompt, long ones first, so that what is computed together is of like length. Where a
        model's layers do not look at everything before (`packable`), batches of rows are written in lockstep instead,
        each until the last of its rows has ended.
        """
        order = sorted(
            range(len(jobs)), key=lambda index: (-len(jobs[index].prompt_ids), jobs[index].prompt_ids, index)
        )
        work = [(number, jobs[number]) for number in order]
        if work and packable(self._model.module):
            desk = Desk(self._model, work, temperature, self._max_rows, self._cache_bytes, self._ends)
            yield from desk.steps()
            return
        for start in range(0, len(work), self._max_rows):
            yield from _in_lockstep(self._model, work[start : start + self._max_rows], temperature, self._ends)


def _go_on() -> None:
    pass


def _in_lockstep(
    model: Model, work: Sequence[tuple[int, Job]], temperature: float, end_ids: Collection[int]
) -> Iterator[Sequence[tuple[int, Completion]]]:
    """Left-padded, with a cache that grows for all of them: what every model that transformers generates with takes."""
    module, device, jobs = model.module, model.device, [job for _, job in work]
    ends = torch.tensor(sorted(end_ids), device=device)
    limits = [job.max_tokens for job in jobs]
    streams = [[*uniforms(job.seed, job.max_tokens), *[0.0] * (max(limits) - job.max_tokens)] for job in jobs]
    uniform_BT = torch.tensor(streams, dtype=torch.float64, device=device)
    ids_BL, mask_BL = _left_pad([job.prompt_ids for job in jobs], device)
    position_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    cache, tokens, logprobs = DynamicCache(config=module.config), list[Tensor](), list[Tensor]()
    done_B = torch.zeros(len(jobs), dtype=torch.bool, device=device)
    for t in range(max(limits)):
        output = module(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=position_BL,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token_B, logprob_B = draw(output.logits[:, -1], temperature, uniform_BT[:, t])
        tokens.append(token_B)
        logprobs.append(logprob_B)
        done_B = done_B | torch.isin(token_B, ends) | (t + 1 >= torch.tensor(limits, device=device))
        if bool(done_B.all()):
            break
        yield ()
        ids_BL, position_BL = token_B[:, None], position_BL[:, -1:] + 1
        mask_BL = torch.cat([mask_BL, torch.ones_like(token_B[:, None])], dim=-1)
    completions = _cut(torch.stack(tokens, 1), torch.stack(logprobs, 1), limits, end_ids)
    yield [(number, completion) for (number, _), completion in zip(work, completions, strict=True)]


def _left_pad(prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


def _cut(tokens_BT: Tensor, logprobs_BT: Tensor, limits: Sequence[int], ends: Collection[int]) -> list[Completion]:
    completions: list[Completion] = []
    rows = zip(tokens_BT.tolist(), logprobs_BT.tolist(), limits, strict=True)
    for tokens, logprobs, limit in rows:
        stop = next((t + 1 for t, token in enumerate(tokens[:limit]) if token in ends), None)
        length = stop if stop is not None else limit
        completions.append(
            Completion(token_ids=tuple(tokens[:length]), logprobs=tuple(logprobs[:length]), finished=stop is not None)
        )
    return completions
