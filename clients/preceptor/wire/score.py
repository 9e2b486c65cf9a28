"""Scores as arrays: what is asked of a teacher, what it answers. numpy only; `preceptor.frames` puts them on the wire.

Shape letters: T completion tokens of the whole request (in an answer: those that the position mask kept), K support,
V vocabulary, D hidden size, B completions, C contexts. Log-probabilities are natural logs.

Position rule: entry t scores completion token t given its context and the completion tokens before t. Nothing about the
context's own tokens is returned. An empty completion is legal and gives an empty slice.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preceptor.wire.teachers import Stamp, Support


class Extra(StrEnum):
    """Further numbers per position, on request."""

    ENTROPY = "entropy"
    LOGSUMEXP = "logsumexp"
    RANK = "rank"
    """How many tokens are strictly likelier than the one that was written; 0 is the likeliest."""


class HiddenDtype(StrEnum):
    """How hidden states travel."""

    F32 = "f32"
    BF16 = "bf16"
    F8 = "f8_e4m3"


def context_hash(ids: ArrayLike) -> str:
    """The identity of a context: hash of its ids as little-endian int32."""
    return "sha256:" + hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()


def offsets_of(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several ragged rows begins in their concatenation, and where the last ends: int64 [rows + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.asarray(lengths, dtype=np.int64), out=offsets[1:])
    return offsets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreRequest:
    """Contexts once, completions that point at them, and what is wanted of each completion position.

    Raises ValueError, naming the field, when the arrays do not belong together.
    """

    contexts: Sequence[NDArray[np.int32]]
    """Each distinct privileged prompt once, as token ids. None may be empty: the first token needs one before it."""
    completions: Sequence[NDArray[np.int32]]
    """The student's exact tokens."""
    context_of: NDArray[np.int32]
    """[B] which context each completion follows."""
    support: Support
    k: int = 0
    """Ids per position that the teacher chooses; for `topk` only."""
    temperature: float = 1.0
    """Logits are divided by it before everything else."""
    extras: frozenset[Extra] = frozenset()
    dtype: HiddenDtype = HiddenDtype.F32
    """Of the hidden states, for `full`."""
    candidate_ids: NDArray[np.int32] | None = None
    """[T, K] the student's candidates at every completion position, before any mask; -1 pads. For `ids` only."""
    position_mask: NDArray[np.bool_] | None = None
    """[T] score only these positions."""
    weights_version: int | None = None
    """The version wanted; None: whichever is live."""
    deadline_ms: int | None = None
    """After this long the caller no longer wants the answer."""
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "contexts", tuple(np.ascontiguousarray(ids, dtype=np.int32) for ids in self.contexts))
        set_(self, "completions", tuple(np.ascontiguousarray(ids, dtype=np.int32) for ids in self.completions))
        set_(self, "context_of", np.ascontiguousarray(self.context_of, dtype=np.int32))
        set_(self, "support", Support(self.support))
        set_(self, "dtype", HiddenDtype(self.dtype))
        set_(self, "extras", frozenset(Extra(extra) for extra in self.extras))
        _check_layout(self)
        _check_options(self)

    @property
    def completion_offsets(self) -> NDArray[np.int64]:
        """[B+1] where each completion begins among all T completion positions."""
        return offsets_of([len(ids) for ids in self.completions])

    @property
    def scored_offsets(self) -> NDArray[np.int64]:
        """[B+1] the same among the positions that are scored: what `Scores.offsets` will be."""
        offsets = self.completion_offsets
        if self.position_mask is None:
            return offsets
        kept = np.concatenate(([0], np.cumsum(self.position_mask, dtype=np.int64)))
        return kept[offsets]

    @property
    def tokens(self) -> int:
        """Tokens a teacher must read without sharing: every completion with its context."""
        contexts = np.array([len(ids) for ids in self.contexts], dtype=np.int64)
        return int(contexts[self.context_of].sum() + self.completion_offsets[-1]) if len(self.context_of) else 0


def _check_layout(request: ScoreRequest) -> None:
    for name, rows in (("contexts", request.contexts), ("completions", request.completions)):
        for index, ids in enumerate(rows):
            if ids.ndim != 1:
                raise ValueError(f"{name}: entry {index} has shape {list(ids.shape)}; token ids are one row each")
            if ids.size and int(ids.min()) < 0:
                raise ValueError(f"{name}: entry {index} holds the negative id {int(ids.min())}; ids start at 0")
    for index, ids in enumerate(request.contexts):
        if not ids.size:
            raise ValueError(f"contexts: entry {index} is empty; a first token needs at least one token before it")
    if request.context_of.shape != (len(request.completions),):
        raise ValueError(
            f"context_of: has shape {list(request.context_of.shape)}, but there are {len(request.completions)} "
            "completions; give one context index per completion"
        )
    wild = request.context_of[(request.context_of < 0) | (request.context_of >= len(request.contexts))]
    if wild.size:
        known = len(request.contexts)
        raise ValueError(f"context_of: {int(wild[0])} is not one of this request's {known} contexts")


def _check_options(request: ScoreRequest) -> None:
    total = int(request.completion_offsets[-1])
    candidates, mask = request.candidate_ids, request.position_mask
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != (total,)):
        raise ValueError(
            f"position_mask: is {mask.dtype} {list(mask.shape)}; it must be bool [{total}], one per completion token"
        )
    if not np.isfinite(request.temperature) or request.temperature <= 0:
        raise ValueError(f"temperature: {request.temperature} is not above 0")
    if request.support is Support.TOPK and request.k < 1:
        raise ValueError(f"k: support 'topk' needs at least one id per position, not {request.k}")
    if request.support is not Support.TOPK and request.k != 0:
        raise ValueError(f"k: only support 'topk' has one; leave it out for '{request.support}'")
    if request.deadline_ms is not None and request.deadline_ms < 1:
        raise ValueError(f"deadline_ms: {request.deadline_ms} is not a positive number of milliseconds")
    if (candidates is None) != (request.support is not Support.IDS):
        raise ValueError("candidate_ids: support 'ids' needs it and no other support takes it")
    if candidates is None:
        return
    if candidates.dtype != np.int32 or candidates.ndim != 2 or len(candidates) != total or candidates.shape[1] < 1:
        raise ValueError(
            f"candidate_ids: is {candidates.dtype} {list(candidates.shape)}; it must be int32 [{total}, K], a row per "
            "completion token and K at least 1"
        )
    if candidates.size and int(candidates.min()) < -1:
        raise ValueError(f"candidate_ids: holds {int(candidates.min())}; ids start at 0 and -1 pads")
    ordered = np.sort(candidates, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row = int(np.flatnonzero(twice.any(axis=1))[0])
        raise ValueError(f"candidate_ids: row {row} names an id twice; its mass would be counted twice")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Numbers:
    """What was computed, for every scored position in request order. All arrays float32 unless said otherwise."""

    offsets: NDArray[np.int64]
    """[B+1] where each completion's positions begin."""
    logprob_T: NDArray[np.float32]
    """Log-probability of the token that was written."""
    ids_TK: NDArray[np.int32] | None = None
    """The support's ids: the teacher's, likeliest first (`topk`), or the request's own (`ids`; -1 pads)."""
    logprobs_TK: NDArray[np.float32] | None = None
    """Of those ids; minus infinity where `ids_TK` pads."""
    tail_T: NDArray[np.float32] | None = None
    """Log of the probability that the support leaves out; minus infinity when it leaves out none."""
    hidden_TD: NDArray[np.float32] | None = None
    """Final normalised hidden state that predicts each completion token."""
    entropy_T: NDArray[np.float32] | None = None
    """Nats."""
    logsumexp_T: NDArray[np.float32] | None = None
    """Of the logits, after the temperature."""
    rank_T: NDArray[np.int32] | None = None
    prefix_hits: int = 0
    """Rows whose context came from a prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores(Numbers):
    """What a teacher answered: the numbers, and who said them."""

    stamp: Stamp

    @classmethod
    def stamped(cls, numbers: Numbers, stamp: Stamp) -> Scores:
        """Numbers under a stamp."""
        return cls(**{field.name: getattr(numbers, field.name) for field in fields(Numbers)}, stamp=stamp)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """The output projection: logits = hidden @ weight.T + bias. With hidden states it gives the full distribution."""

    hash: str
    """Hash of the frame it came in."""
    weight_VD: NDArray[np.float32]
    bias_V: NDArray[np.float32] | None = None
