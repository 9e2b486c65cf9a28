"""What a stock server said of sequences, read strictly and joined into our arrays.

Only completion positions come out; an entry that is missing is an error and never a zero.

Shape letters: T completion tokens of one sequence, K support.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx
import numpy as np
from numpy.typing import NDArray

from preceptor.errors import Corrupt, Invalid
from preceptor.frames import scored_candidates
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import Card, Support

SURPLUS = 1e-2
"""How far above one the probabilities of a support may add up, by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One completion behind its context, to be asked about."""

    index: int
    """Which completion of the request: for errors."""
    context: list[int]
    completion: list[int]
    k: int
    """Ids per position that the server chooses; 0 but for support `topk`."""
    candidates_TK: NDArray[np.int32] | None
    """For support `ids`: -1 pads."""

    @property
    def ids(self) -> list[int]:
        """Everything that the server reads."""
        return self.context + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said of one sequence's completion positions."""

    logprob_T: NDArray[np.float32]
    ids_TK: NDArray[np.int32] | None = None
    logprobs_TK: NDArray[np.float32] | None = None
    weights_version: int = 0


def rows_of(body: Any, name: str) -> list[dict[str, Any]]:
    """The objects of a JSON object's list; empty where it has none."""
    rows: Any = cast("dict[str, Any]", body).get(name) if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return []
    return [cast("dict[str, Any]", row) for row in cast("list[Any]", rows) if isinstance(row, dict)]


def object_of(body: Any, where: str) -> dict[str, Any]:
    """A JSON object. Raises Corrupt where it is something else."""
    if not isinstance(body, dict):
        raise Corrupt(f"{where}: is not a JSON object but {_brief(body)}.")
    return cast("dict[str, Any]", body)


def list_of(value: Any, length: int, where: str) -> list[Any]:
    """A JSON list of that length. Raises Corrupt where it is something else: a part of an answer is no answer."""
    if not isinstance(value, list):
        raise Corrupt(f"{where}: is missing.")
    entries = cast("list[Any]", value)
    if len(entries) != length:
        raise Corrupt(f"{where}: covers {len(entries)} positions where {length} were asked for.")
    return entries


def number_of(value: Any, where: str) -> float:
    """A JSON number. Raises Corrupt for null and everything else: what is missing is never 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Corrupt(f"{where}: the log-probability is {_brief(value)}.")
    return float(value)


def version_of(name: Any) -> int:
    """Our number for an engine's weights version: its own where it is a number, else one made of the name; 0 is what
    engines call `default`."""
    if name is None or name == "default":
        return 0
    text = str(name)
    return int(text) if text.isdecimal() and len(text) < 10 else zlib.crc32(text.encode()) >> 1


def sequences_of(request: ScoreRequest) -> list[Asked]:
    """Every completion that has positions to be scored."""
    offsets, scored = request.completion_offsets.tolist(), request.scored_offsets.tolist()
    contexts = [ids.tolist() for ids in request.contexts]
    candidates = request.candidate_ids
    return [
        Asked(
            index=index,
            context=contexts[context],
            completion=completion.tolist(),
            k=request.k,
            candidates_TK=None if candidates is None else candidates[offsets[index] : offsets[index + 1]],
        )
        for index, (completion, context) in enumerate(
            zip(request.completions, request.context_of.tolist(), strict=True)
        )
        if scored[index + 1] > scored[index]
    ]


def joined(request: ScoreRequest, answers: Mapping[int, Answer]) -> Numbers:
    """Every sequence's numbers in request order, at the positions that were asked for."""
    ordered = [answers[index] for index in sorted(answers)]
    offsets = request.completion_offsets
    mask = request.position_mask
    kept: list[Any] = [
        slice(None) if mask is None else mask[int(offsets[index]) : int(offsets[index + 1])]
        for index in sorted(answers)
    ]

    def together(arrays: Sequence[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array[rows] for array, rows in zip(arrays, kept, strict=True)] or [empty])

    logprob_T = together([answer.logprob_T for answer in ordered], np.zeros(0, dtype=np.float32))
    ids_TK = logprobs_TK = tail_T = None
    width = request.k if request.candidate_ids is None else request.candidate_ids.shape[1]
    if request.support in (Support.TOPK, Support.IDS):
        empty = np.zeros((0, width), dtype=np.float32)
        logprobs_TK = together([_there(answer.logprobs_TK) for answer in ordered], empty)
        if request.support is Support.IDS:
            ids_TK = scored_candidates(request)
        else:
            ids_TK = together([_there(answer.ids_TK) for answer in ordered], empty.astype(np.int32))
        tail_T = _tail(logprobs_TK)
    return Numbers(
        offsets=request.scored_offsets, logprob_T=logprob_T, ids_TK=ids_TK, logprobs_TK=logprobs_TK, tail_T=tail_T
    )


def _there(array: NDArray[Any] | None) -> NDArray[Any]:
    assert array is not None, "an adapter answers the support that it was asked for"
    return array


def _tail(logprobs_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    """[T] log of what the ids leave out, from what they hold: below the rounding of float32 it is that rounding.

    Raises Corrupt where they hold more than there is: those are not log-probabilities of one distribution.
    """
    held_T = np.exp(logprobs_TK.astype(np.float64)).sum(axis=1)
    if held_T.size and float(held_T.max()) > 1 + SURPLUS:
        row = int(held_T.argmax())
        raise Corrupt(
            f"The probabilities of a support add up to {held_T[row]:.4g} (scored position {row}): these are not "
            "log-probabilities of one distribution."
        )
    return np.log(np.maximum(1.0 - held_T, np.finfo(np.float32).eps)).astype(np.float32)


def _brief(value: Any) -> str:
    return "null" if value is None else repr(value)[:60]


def refuse(request: ScoreRequest, card: Card, engine: str) -> None:
    """What no stock server can say, by name. Raises Invalid."""
    if request.support not in card.supports:
        offered = ", ".join(card.supports) or "none: it is a text teacher"
        raise Invalid(
            f"support: '{request.support}' is not offered by this {engine} server; it offers {offered}.",
            field="support",
        )
    if request.temperature != 1.0:
        raise Invalid(
            f"temperature: {engine} gives prompt log-probabilities at temperature 1 only.",
            field="temperature",
            remedy="Ask for temperature 1, or use a Preceptor teacher.",
        )
    if request.extras:
        raise Invalid(
            f"extras: {engine} gives no {', '.join(sorted(request.extras))}.",
            field="extras",
            remedy="Use a Preceptor teacher.",
        )


def bases_of(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models that are not adapters of another."""
    return [entry for entry in entries if entry.get("parent") is None]


def words_of(answer: httpx.Response) -> str | None:
    """The sentence in an error's body, in whichever envelope; None: it has none."""
    try:
        body: Any = answer.json()
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    fields = cast("dict[str, Any]", body)
    inner: Any = fields.get("error", fields)
    if isinstance(inner, str):
        return inner
    if not isinstance(inner, dict):
        return None
    message: Any = cast("dict[str, Any]", inner).get("message")
    return message if isinstance(message, str) else None
