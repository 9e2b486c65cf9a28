"""The student writes: batched, left-padded generation with a KV cache, and the sampler's own log-probabilities.

Every rollout draws from its own stream of uniforms, seeded by the rollout, so what it is batched with does not decide
what it writes. A completion ends with the first end token, which belongs to it; padding is tracked by position, never
by id, so a tokenizer whose pad token is its end token is no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from preceptor_trainer.model import Model, eos_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One completion to write."""

    prompt_ids: tuple[int, ...]
    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion as written."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Under the distribution each token was drawn from (tempered, where the temperature is not 1); greedy:
    untempered."""
    finished: bool
    """False: cut off at `max_tokens`."""


class Sampler(Protocol):
    """Anything that writes completions with the student's current weights."""

    def sample(self, jobs: Sequence[Job], temperature: float) -> list[Completion]: ...


class LocalSampler:
    """Samples from a model in this process. Temperature 0 is greedy."""

    def __init__(self, model: Model, max_rows: int = 64) -> None:
        self._model = model
        self._max_rows = max_rows

    def sample(self, jobs: Sequence[Job], temperature: float) -> list[Completion]:
        """One completion a job, in the jobs' order. Jobs are batched by prompt length to keep padding short."""
        order = sorted(range(len(jobs)), key=lambda index: (len(jobs[index].prompt_ids), index))
        written: dict[int, Completion] = {}
        for start in range(0, len(order), self._max_rows):
            chosen = order[start : start + self._max_rows]
            completions = self._write([jobs[index] for index in chosen], temperature)
            written.update(zip(chosen, completions, strict=True))
        return [written[index] for index in range(len(jobs))]

    @torch.inference_mode()
    def _write(self, jobs: Sequence[Job], temperature: float) -> list[Completion]:
        module, horizon = self._model.module, max(job.max_tokens for job in jobs)
        ends = torch.tensor(sorted(eos_ids(self._model)))
        limit_B = torch.tensor([job.max_tokens for job in jobs])
        uniform_BT = torch.stack([_uniforms(job.seed, horizon) for job in jobs])
        ids_BL, mask_BL = _left_pad([job.prompt_ids for job in jobs])
        position_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
        cache, tokens, logprobs = DynamicCache(config=module.config), list[Tensor](), list[Tensor]()
        done_B = torch.zeros(len(jobs), dtype=torch.bool)
        for t in range(horizon):
            output = module(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                position_ids=position_BL,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token_B, logprob_B = _draw(output.logits[:, -1], temperature, uniform_BT[:, t])
            tokens.append(token_B)
            logprobs.append(logprob_B)
            done_B = done_B | torch.isin(token_B, ends) | (t + 1 >= limit_B)
            if bool(done_B.all()):
                break
            ids_BL, position_BL = token_B[:, None], position_BL[:, -1:] + 1
            mask_BL = torch.cat([mask_BL, torch.ones_like(token_B[:, None])], dim=-1)
        return _cut(torch.stack(tokens, 1), torch.stack(logprobs, 1), limit_B.tolist(), frozenset(ends.tolist()))


def _uniforms(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _left_pad(prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids_BL = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask_BL = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids_BL[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask_BL[row, longest - len(prompt) :] = 1
    return ids_BL, mask_BL


def _draw(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling in float64, one uniform a row; greedy at temperature 0."""
    logprobs_BV = torch.log_softmax(logits_BV.double() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token_B = logprobs_BV.argmax(-1)
    else:
        cumulative_BV = logprobs_BV.exp().cumsum(-1)
        threshold_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
        token_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(-1)
        token_B = token_B.clamp(max=logits_BV.shape[-1] - 1)
    return token_B, logprobs_BV.gather(-1, token_B[:, None]).squeeze(-1)


def _cut(tokens_BT: Tensor, logprobs_BT: Tensor, limits: Sequence[int], ends: frozenset[int]) -> list[Completion]:
    completions: list[Completion] = []
    rows = zip(tokens_BT.tolist(), logprobs_BT.tolist(), limits, strict=True)
    for tokens, logprobs, limit in rows:
        stop = next((t + 1 for t, token in enumerate(tokens[:limit]) if token in ends), None)
        length = stop if stop is not None else limit
        completions.append(
            Completion(token_ids=tuple(tokens[:length]), logprobs=tuple(logprobs[:length]), finished=stop is not None)
        )
    return completions
