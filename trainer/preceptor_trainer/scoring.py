"""How likely every token of a completion was, given its context: the numbers behind every teacher, served or not.

Rows of context and completion are batched by length under a token budget, right-padded, with explicit masks and
positions, so that a row's numbers do not depend on its neighbours. Only the hidden states that predict a wanted
completion token are kept; logits are made from them in blocks of rows, so that [T, V] never exists. Products are
computed in the weights' dtype, everything after in float32.

Shape letters: B rows, S positions, T scored positions of a request, N those of one block, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from preceptor.frames import scored_candidates
from preceptor.wire.score import Extra, Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer.model import Head, Model, head_of
from preceptor_trainer.packing import Input, Packed, Piece, batches, lay_out, pack, packable
from preceptor_trainer.prefixes import Prefix, PrefixCache, stack

BLOCK_LOGITS = 1 << 22
"""Logits that exist at one time: 16 MiB of float32, so a handful of work arrays stays below 100 MiB."""


def score(
    model: Model,
    request: ScoreRequest,
    *,
    batch_tokens: int = 8192,
    between: Callable[[], object] | None = None,
    prefixes: PrefixCache | None = None,
    version: int = 0,
) -> Numbers:
    """Score a request. A context is read once for all its completions, and not at all where `prefixes` holds it.

    batch_tokens: most tokens, padding included, in one forward pass; a longer single row still gets its own.
    between: called before every forward pass; what it raises ends the work (a caller that went away, a deadline).
    version: of the weights, which is part of a prefix's name.
    Ids must be below the vocabulary's size and rows within the model's positions; `preceptor.limits` checks both.
    """
    head = head_of(model.module)
    wanted = _Wanted.of(request, model.device)
    numbers = _Numbers(request, head)
    with torch.inference_mode():
        for batch, hits in _batches(_rows(request, model, batch_tokens), batch_tokens, prefixes, version):
            if between is not None:
                between()
            hidden_ND, at_N = _predicting(model, batch, hits, prefixes, version)
            numbers.prefix_hits += len(hits)
            for block in _blocks(len(at_N), head.weight_VD.shape[0]):
                numbers.put(at_N[block], hidden_ND[block], wanted)
    return numbers.done()


def final_hidden(
    module: PreTrainedModel, input_ids_BS: Tensor, attention_mask_BS: Tensor, position_ids_BS: Tensor
) -> Tensor:
    """[B, S, D] final normalised hidden states: times the head they are the logits. Carries gradient where it is on."""
    out = module.base_model(
        input_ids=input_ids_BS, attention_mask=attention_mask_BS, position_ids=position_ids_BS, use_cache=False
    )
    return out.last_hidden_state


def _rows(request: ScoreRequest, model: Model, most_tokens: int) -> list[Packed]:
    """Every wanted completion, packed behind its context where the model allows it."""
    mask, offsets, scored = request.position_mask, request.completion_offsets, request.scored_offsets
    pieces: defaultdict[int, list[Piece]] = defaultdict(list)
    for index, completion in enumerate(request.completions):
        kept = np.arange(len(completion))
        if mask is not None:
            kept = np.flatnonzero(mask[offsets[index] : offsets[index + 1]])
        if kept.size:
            at = np.arange(scored[index], scored[index + 1])
            pieces[int(request.context_of[index])].append(Piece(completion[: kept[-1]], kept, at))
    most = most_tokens if packable(model.module) else 0
    return [row for context, mine in pieces.items() for row in pack(request.contexts[context], mine, most)]


def _batches(
    rows: Sequence[Packed], batch_tokens: int, prefixes: PrefixCache | None, version: int
) -> Iterator[tuple[list[Packed], list[Prefix]]]:
    """Rows for one forward pass each, with their cached prefixes: all of a batch's rows have one, or none has."""
    if prefixes is None:
        yield from ((batch, []) for batch in batches(rows, batch_tokens))
        return
    found = {id(row): prefixes.get(version, row.context) for row in rows}
    for batch in batches([row for row in rows if found[id(row)] is not None], batch_tokens):
        yield batch, [prefix for row in batch if (prefix := found[id(row)]) is not None]
    yield from ((batch, []) for batch in batches([row for row in rows if found[id(row)] is None], batch_tokens))


def _blocks(count: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, BLOCK_LOGITS // vocabulary)
    return (slice(begin, begin + size) for begin in range(0, count, size))


def _predicting(
    model: Model, batch: Sequence[Packed], hits: Sequence[Prefix], prefixes: PrefixCache | None, version: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """[N, D] the hidden states that predict every wanted token of a batch, and where their numbers go."""
    module = model.module
    laid = lay_out(batch, cached=bool(hits), device=model.device)
    keep = prefixes is not None and not hits and packable(module)
    cache = stack(hits, module) if hits else DynamicCache(config=module.config) if keep else None
    hidden_BSD = module.base_model(
        input_ids=laid.ids_BS,
        attention_mask=_mask_for(module, laid),
        position_ids=laid.position_BS,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    if keep and prefixes is not None and cache is not None:
        prefixes.put(version, batch, cache)
    return hidden_BSD[laid.row_N, laid.state_N], laid.at_N


def _mask_for(module: PreTrainedModel, laid: Input) -> Tensor:
    """A mask of our own where the model takes one; else which positions are real, since every row is one completion."""
    if packable(module):
        return laid.mask_B1SK
    return laid.real_BS


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


class _Numbers:
    """The answer's arrays, filled block by block."""

    def __init__(self, request: ScoreRequest, head: Head) -> None:
        self._request, self._head = request, head
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

    def put(self, at_N: NDArray[np.int64], hidden_ND: Tensor, wanted: _Wanted) -> None:
        """One block of positions."""
        index_N = torch.from_numpy(at_N).to(hidden_ND.device)
        logits_NV = torch.nn.functional.linear(hidden_ND, self._head.weight_VD, self._head.bias_V).float()
        if self._request.temperature != 1.0:
            logits_NV /= self._request.temperature
        lse_N = logits_NV.logsumexp(dim=1)
        token_N1 = wanted.token_T[index_N, None]
        written_N1 = logits_NV.gather(1, token_N1)
        self._logprob_T[at_N] = _numpy(written_N1[:, 0] - lse_N)
        if self._hidden_TD is not None:
            self._hidden_TD[at_N] = _numpy(hidden_ND.float())
        if self._entropy_T is not None:
            logprob_NV = logits_NV - lse_N[:, None]
            self._entropy_T[at_N] = _numpy(-(logprob_NV.exp() * logprob_NV).sum(dim=1))
        if self._logsumexp_T is not None:
            self._logsumexp_T[at_N] = _numpy(lse_N)
        if self._rank_T is not None:
            self._rank_T[at_N] = _numpy((logits_NV > written_N1).sum(dim=1))
        if self._logprobs_TK is not None and self._tail_T is not None and self._ids_TK is not None:
            if wanted.candidate_TK is None:
                chosen = logits_NV.topk(self._request.k, dim=1)
                self._ids_TK[at_N] = _numpy(chosen.indices)
                ids_NK, logits_NK = chosen.indices, chosen.values
            else:
                ids_NK = wanted.candidate_TK[index_N]
                logits_NK = logits_NV.gather(1, ids_NK.clamp(min=0)).masked_fill(ids_NK < 0, -torch.inf)
            self._logprobs_TK[at_N] = _numpy(logits_NK - lse_N[:, None])
            self._tail_T[at_N] = _numpy(_tail(logits_NV, ids_NK, lse_N))

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


def _tail(logits_NV: Tensor, ids_NK: Tensor, lse_N: Tensor) -> Tensor:
    """[N] log of the probability outside the ids (-1 pads). From the logits left over, not as 1 - sum: a tail of 1e-20
    keeps its digits. Spends `logits_NV`.
    """
    # A pad must not strike out id 0: it repeats the row's largest id instead. A row of pads strikes out nothing.
    largest_N1 = ids_NK.max(dim=1, keepdim=True).values
    struck_NK = torch.where(ids_NK < 0, largest_N1, ids_NK).clamp(min=0)
    first_N = logits_NV[:, 0].clone()
    logits_NV.scatter_(1, struck_NK, -torch.inf)
    logits_NV[:, 0] = torch.where(largest_N1[:, 0] < 0, first_N, logits_NV[:, 0])
    return logits_NV.logsumexp(dim=1) - lse_N


def _numpy(tensor: Tensor) -> NDArray[np.generic]:
    return tensor.cpu().numpy()
