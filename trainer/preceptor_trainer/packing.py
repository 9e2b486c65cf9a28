"""Completions packed behind one copy of their context: one forward pass reads the context once for all of them.

A row is a context and some completions of it, one after another. A completion's tokens see the context and themselves,
never a sibling; positions go on from the context's end for each of them, so that every completion's numbers are those
it has alone. All of a context but its last token is its *prefix*: what a prefix cache can hold. The last token, the
stem, is computed with the completions, since it predicts their first tokens.

Holds for models whose layers all attend to everything before (`packable`); others are scored one completion a row.
Shape letters: B rows, Q prefix positions, S new positions, N wanted positions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

MASK_ELEMENTS = 1 << 26
"""Entries of one attention mask: 64 MiB of booleans. A row that would need more is split, its context repeated."""

READ_FIRST = 128
"""A shared prefix of this many tokens is worth a forward pass of its own."""

_PAD, _CONTEXT = -1, 0
"""Segments: padding, the context; completions count from 1."""


class Receiver(Protocol):
    """Takes the hidden states of a request, whichever others were computed beside them."""

    def put(self, at_N: NDArray[np.int64], hidden_ND: Tensor) -> object: ...


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One completion: the tokens that are read, and which of them predict something wanted."""

    ids: NDArray[np.int32]
    """Its tokens up to the one that predicts the last wanted one."""
    predicts: NDArray[np.int64]
    """Counted from the stem, which is 0: the wanted token k is predicted by position k."""
    at: NDArray[np.int64]
    """Where their numbers go."""
    to: Receiver | None = None
    """Who gets them."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A context and completions of it."""

    context: NDArray[np.int32]
    pieces: tuple[Piece, ...]

    @property
    def prefix(self) -> int:
        """Tokens before the stem."""
        return len(self.context) - 1

    @property
    def new(self) -> int:
        """The stem and all completions."""
        return 1 + sum(len(piece.ids) for piece in self.pieces)

    def __len__(self) -> int:
        return self.prefix + self.new


def packable(module: PreTrainedModel) -> bool:
    """Whether every layer attends to all that came before, under an implementation that takes a mask of our own."""
    config = module.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    recurrent = any(getattr(config, name, None) for name in ("state_size", "mamba_d_state", "attn_layer_indices"))
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        set(kinds) == {"full_attention"}
        and not recurrent
        and sliding is None
        and config._attn_implementation in ("eager", "sdpa")
    )


def as_taken(mask: Tensor, module: PreTrainedModel) -> Tensor:
    """A boolean mask as the module's attention takes one: `eager` adds what it is given, `sdpa` looks at it."""
    if module.config.get_text_config()._attn_implementation != "eager":
        return mask
    dtype = next(module.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def most_new(context: int, hidden_size: int) -> int:
    """Completion tokens behind a context of this many, above which packing more of them costs more than it saves.

    A row of a context C and completions of n tokens costs about (C + n)(6D + C + n) a layer: matrices grow with its
    length, attention, which computes what the mask throws away, with its square. Per completion that is least where
    n * n = C(C + 6D).
    """
    return math.isqrt(context * (context + 6 * hidden_size))


def pack(
    context: NDArray[np.int32], pieces: Sequence[Piece], most_tokens: int, most_new: int | None = None
) -> Iterator[Packed]:
    """Rows of one context that keep to `most_tokens`, to the mask's bound, and to `most_new` completion tokens; a piece
    too long for any of them stands alone."""
    held: list[Piece] = []
    new = 1
    for piece in pieces:
        grown = new + len(piece.ids)
        length = len(context) - 1 + grown
        over = length > most_tokens or grown * length > MASK_ELEMENTS or (most_new is not None and grown - 1 > most_new)
        if held and over:
            yield Packed(context, tuple(held))
            held, grown = [], 1 + len(piece.ids)
        held.append(piece)
        new = grown
    if held:
        yield Packed(context, tuple(held))


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """What a forward pass over some rows takes, and where its wanted states are."""

    ids_BS: Tensor
    position_BS: Tensor
    segment_BK: Tensor
    """Of every key (K: the cached prefix, then the new positions)."""
    held: int
    """Keys before the new positions."""
    causal: bool
    """Whether every row is one text from its first token on: then nothing but padding is hidden from what follows."""
    real_BS: Tensor
    """1 where a new position is no padding."""
    row_N: Tensor
    state_N: Tensor
    """Among the S new positions."""
    at_N: NDArray[np.int64]

    to_N: tuple[tuple[Receiver, int], ...]
    """Whose they are: runs of one receiver, and how long each is."""

    @property
    def mask_B1SK(self) -> Tensor:
        """True where a new position (S) may look at a key (K)."""
        return _mask(self.segment_BK, self.held)

    def deliver(self, hidden_ND: Tensor) -> None:
        """Give everybody the wanted states that are theirs."""
        runs: defaultdict[int, list[NDArray[np.int64]]] = defaultdict(list)
        begin = 0
        for receiver, count in self.to_N:
            runs[id(receiver)].append(np.arange(begin, begin + count))
            begin += count
        receivers = {id(receiver): receiver for receiver, _ in self.to_N}
        for key, receiver in receivers.items():
            if len(receivers) == 1:
                receiver.put(self.at_N, hidden_ND)
            else:
                index_N = np.concatenate(runs[key])
                receiver.put(self.at_N[index_N], hidden_ND[torch.from_numpy(index_N).to(hidden_ND.device)])


def reads_first(rows: Sequence[Packed]) -> bool:
    """Whether to read the rows' prefixes in a forward pass of their own, and then what follows them.

    Attention under a mask computes what the mask throws away. A prefix by itself needs no mask, which halves its cost;
    and what follows is looked at from its own positions only.
    """
    prefix, new, longest = (max(size) for size in zip(*((row.prefix, row.new, len(row)) for row in rows), strict=True))
    shares = any(len(row.pieces) > 1 and row.prefix >= READ_FIRST for row in rows)
    return shares and min(row.prefix for row in rows) > 0 and 10 * (prefix + new) <= 11 * longest


def prefix_ids(rows: Sequence[Packed], device: torch.device) -> Tensor:
    """[B, Q] the rows' prefixes, padded on the right to the longest."""
    ids_BQ = np.zeros((len(rows), max(row.prefix for row in rows)), dtype=np.int64)
    for index, row in enumerate(rows):
        ids_BQ[index, : row.prefix] = row.context[:-1]
    return torch.from_numpy(ids_BQ).to(device)


def lay_out(rows: Sequence[Packed], *, cached: bool, device: torch.device) -> Input:
    """Tensors of these rows. `cached`: their prefixes' keys and values are at hand, padded on the right to the longest.

    Otherwise the prefixes are among the new positions.
    """
    held = max(row.prefix for row in rows) if cached else 0
    longest = max(row.new if cached else len(row) for row in rows)
    ids_BS = np.zeros((len(rows), longest), dtype=np.int64)
    position_BS = np.zeros((len(rows), longest), dtype=np.int64)
    segment_BK = np.full((len(rows), held + longest), _PAD, dtype=np.int64)
    row_N, state_N = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for index, row in enumerate(rows):
        skip = row.prefix if cached else 0
        stem = row.prefix - skip
        segment_BK[index, :skip] = _CONTEXT
        segment_BK[index, held : held + stem + 1] = _CONTEXT
        ids_BS[index, : stem + 1] = row.context[skip:]
        position_BS[index, : stem + 1] = np.arange(skip, len(row.context))
        begin = stem + 1
        for number, piece in enumerate(row.pieces, 1):
            end = begin + len(piece.ids)
            ids_BS[index, begin:end] = piece.ids
            position_BS[index, begin:end] = len(row.context) + np.arange(len(piece.ids))
            segment_BK[index, held + begin : held + end] = number
            # Position 0 of a piece is the stem it shares with its siblings; the rest follow in its own tokens.
            state_N.append(np.where(piece.predicts == 0, stem, begin + piece.predicts - 1))
            row_N.append(np.full(len(piece.predicts), index))
            begin = end
    pieces = [piece for row in rows for piece in row.pieces]
    return Input(
        ids_BS=torch.from_numpy(ids_BS).to(device),
        position_BS=torch.from_numpy(position_BS).to(device),
        segment_BK=torch.from_numpy(segment_BK).to(device),
        held=held,
        causal=not cached and all(len(row.pieces) == 1 for row in rows),
        real_BS=torch.from_numpy((segment_BK[:, held:] != _PAD).astype(np.int64)).to(device),
        row_N=torch.from_numpy(np.concatenate(row_N)).to(device),
        state_N=torch.from_numpy(np.concatenate(state_N)).to(device),
        at_N=np.concatenate([piece.at for piece in pieces]),
        to_N=tuple((piece.to, len(piece.at)) for piece in pieces if piece.to is not None),
    )


def _mask(segment_BK: Tensor, held: int) -> Tensor:
    key_K = torch.arange(segment_BK.shape[1], device=segment_BK.device)
    query_S = key_K[held:]
    seen_BSK = segment_BK[:, None, :] == segment_BK[:, held:, None]
    seen_BSK |= (segment_BK == _CONTEXT)[:, None, :]
    seen_BSK &= (key_K[None, :] <= query_S[:, None])[None]
    # A query that may look at nothing would be NaN: padding looks at itself, and nobody looks at padding.
    seen_BSK &= (segment_BK != _PAD)[:, None, :]
    seen_BSK |= (key_K[None, :] == query_S[:, None])[None]
    return seen_BSK[:, None]
