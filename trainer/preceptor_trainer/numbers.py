"""From hidden states to the numbers of one request, in blocks of rows: logits exist for one block at a time.

Shape letters: T scored positions of a request, N those of one block, K support, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.frames import scored_candidates
from preceptor.wire.score import Extra, Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer.model import Head
from preceptor_trainer.products import product

BLOCK_LOGITS = 1 << 22
"""Logits that exist at one time: 16 MiB of float32, so a handful of work arrays stays below 100 MiB."""
PLAIN_TAIL = 0.05
"""From this much mass on, what a support leaves out may be computed as one minus what it holds: float32 sums are off by
1e-6, which is 2e-5 of it."""


def answer_bytes(request: ScoreRequest, hidden_size: int) -> int:
    """Memory that the answer takes until it is sent."""
    width = request.k if request.candidate_ids is None else request.candidate_ids.shape[1]
    row = 4 + 4 * len(request.extras)
    if request.support is Support.FULL:
        row += 4 * hidden_size
    elif request.support is not Support.SAMPLED:
        row += 8 * width + 4
    return int(request.scored_offsets[-1]) * row


class Tally:
    """The arrays of one answer, filled block by block, in whatever order."""

    def __init__(self, request: ScoreRequest, head: Head, device: torch.device) -> None:
        self._request, self._head = request, head
        self._wanted = _Wanted.of(request, device)
        self.prefix_hits = 0
        self._offsets = request.scored_offsets
        count = int(self._offsets[-1])
        width = request.k if request.candidate_ids is None else request.candidate_ids.shape[1]
        sparse = request.support in (Support.TOPK, Support.IDS)

        def floats(wanted: bool, *shape: int) -> NDArray[np.float32] | None:
            return np.full((count, *shape), np.nan, dtype=np.float32) if wanted else None

        self._logprob_T = np.full(count, np.nan, dtype=np.float32)
        self._logprobs_TK = floats(sparse, width)
        self._tail_T = floats(sparse)
        self._hidden_TD = floats(request.support is Support.FULL, head.weight_VD.shape[1])
        self._entropy_T = floats(Extra.ENTROPY in request.extras)
        self._logsumexp_T = floats(Extra.LOGSUMEXP in request.extras)
        self._rank_T = np.full(count, -1, dtype=np.int32) if Extra.RANK in request.extras else None
        self._ids_TK = None
        if request.support is Support.TOPK:
            self._ids_TK = np.full((count, width), -1, dtype=np.int32)
        elif request.candidate_ids is not None:
            self._ids_TK = scored_candidates(request)

    def put(self, at_N: NDArray[np.int64], hidden_ND: Tensor) -> None:
        """The hidden states that predict these positions. Putting a position twice changes nothing."""
        for block in _blocks(len(at_N), self._head.weight_VD.shape[0]):
            self._put(at_N[block], hidden_ND[block], product(hidden_ND[block], *self._head).float())

    def _put(self, at_N: NDArray[np.int64], hidden_ND: Tensor, logits_NV: Tensor) -> None:
        index_N = torch.from_numpy(at_N).to(hidden_ND.device)
        if self._request.temperature != 1.0:
            logits_NV /= self._request.temperature
        logprob_NV = logits_NV.log_softmax(dim=1)
        token_N1 = self._wanted.token_T[index_N, None]
        self._logprob_T[at_N] = _numpy(logprob_NV.gather(1, token_N1)[:, 0])
        if self._hidden_TD is not None:
            self._hidden_TD[at_N] = _numpy(hidden_ND.float())
        if self._entropy_T is not None:
            self._entropy_T[at_N] = _numpy(-(logprob_NV.exp() * logprob_NV).sum(dim=1))
        if self._logsumexp_T is not None:
            self._logsumexp_T[at_N] = _numpy(logits_NV.logsumexp(dim=1))
        if self._rank_T is not None:
            self._rank_T[at_N] = _numpy((logits_NV > logits_NV.gather(1, token_N1)).sum(dim=1))
        if self._logprobs_TK is not None and self._tail_T is not None and self._ids_TK is not None:
            if self._wanted.candidate_TK is None:
                ids_NK = logits_NV.topk(self._request.k, dim=1).indices
                self._ids_TK[at_N] = _numpy(ids_NK)
            else:
                ids_NK = self._wanted.candidate_TK[index_N]
            logprobs_NK = logprob_NV.gather(1, ids_NK.clamp(min=0)).masked_fill(ids_NK < 0, -torch.inf)
            self._logprobs_TK[at_N] = _numpy(logprobs_NK)
            self._tail_T[at_N] = _numpy(tail(logprob_NV, ids_NK, logprobs_NK))

    def done(self) -> Numbers:
        """The finished answer."""
        return Numbers(
            offsets=self._offsets,
            logprob_T=self._logprob_T,
            ids_TK=self._ids_TK,
            logprobs_TK=self._logprobs_TK,
            tail_T=self._tail_T,
            hidden_TD=self._hidden_TD,
            entropy_T=self._entropy_T,
            logsumexp_T=self._logsumexp_T,
            rank_T=self._rank_T,
            prefix_hits=self.prefix_hits,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """The written token and the candidates at every scored position, on the model's device."""

    token_T: Tensor
    candidate_TK: Tensor | None

    @classmethod
    def of(cls, request: ScoreRequest, device: torch.device) -> _Wanted:
        tokens = np.concatenate([*request.completions, np.zeros(0, dtype=np.int32)]).astype(np.int64)
        if request.position_mask is not None:
            tokens = tokens[request.position_mask]
        candidates = None
        if request.candidate_ids is not None:
            candidates = torch.from_numpy(scored_candidates(request).astype(np.int64)).to(device)
        return cls(torch.from_numpy(tokens).to(device), candidates)


def tail(logprob_NV: Tensor, ids_NK: Tensor, logprobs_NK: Tensor) -> Tensor:
    """[N] log of the probability outside the ids (-1 pads)."""
    left_N = 1 - logprobs_NK.exp().sum(dim=1)
    small_N = left_N < PLAIN_TAIL
    found_N = left_N.clamp(min=PLAIN_TAIL).log()
    if small_N.any():
        rows = small_N.nonzero()[:, 0]
        found_N[rows] = _exact_tail(logprob_NV[rows], ids_NK[rows])
    return found_N


def _exact_tail(logprob_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """From what is left over, not as one minus a sum: a tail of 1e-20 keeps its digits. Spends `logprob_NV`."""
    # A pad must not strike out id 0: it repeats the row's largest id instead. A row of pads strikes out nothing.
    largest_N1 = ids_NK.max(dim=1, keepdim=True).values
    struck_NK = torch.where(ids_NK < 0, largest_N1, ids_NK).clamp(min=0)
    first_N = logprob_NV[:, 0].clone()
    logprob_NV.scatter_(1, struck_NK, -torch.inf)
    logprob_NV[:, 0] = torch.where(largest_N1[:, 0] < 0, first_N, logprob_NV[:, 0])
    return logprob_NV.logsumexp(dim=1)


def _blocks(count: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, BLOCK_LOGITS // vocabulary)
    return (slice(begin, begin + size) for begin in range(0, count, size))


def _numpy(tensor: Tensor) -> NDArray[np.generic]:
    return tensor.cpu().numpy()
