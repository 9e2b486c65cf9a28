"""One completion to be written, and how its tokens are drawn from what a model says.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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


def uniforms(seed: int, count: int) -> list[float]:
    """The stream that a rollout draws from: the same numbers for the same seed, however many are wanted."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def draw(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling, one uniform a row; greedy at temperature 0. Returns tokens and their log-probabilities [B].

    Probabilities have the logits' precision (float32 at least), their sums float64: a uniform near a border between two
    tokens falls on the same side whatever else is in the batch.
    """
    logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    shares_BV = torch.softmax(logits_BV / temperature if temperature else logits_BV, dim=-1)
    if temperature == 0:
        token_B, total_B = logits_BV.argmax(-1), shares_BV.sum(-1, dtype=torch.float64)
    else:
        cumulative_BV = shares_BV.cumsum(-1, dtype=torch.float64)
        total_B = cumulative_BV[:, -1]
        token_B = torch.searchsorted(cumulative_BV, (uniform_B * total_B)[:, None], right=True).squeeze(-1)
        token_B = token_B.clamp(max=logits_BV.shape[-1] - 1)
    share_B = shares_BV.gather(-1, token_B[:, None]).squeeze(-1)
    return token_B, (share_B.double() / total_B).log()
