"""Two tokenizers, one text: the shortest stretches of bytes that both cut out, and what a teacher says of each.

A token is known here by the byte it ends at. Where a byte ends a token of the student and a token of the teacher, both
have read the same text and owe each other nothing: the chain rule makes the sum of the teacher's log-probabilities
between two such bytes the exact log-probability of the bytes between them, in the teacher's own tokens. Anywhere else
there is no number to be had, and none is made up.

Shape letters: T the student's tokens, M the teacher's, S spans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spans:
    """Which span every token belongs to. Spans are numbered from 0 in the order of the text."""

    student_T: NDArray[np.int64]
    """-1: in no span, or in one that is masked."""
    teacher_M: NDArray[np.int64]
    """-1: in no span."""
    ends_S: NDArray[np.int64]
    """The byte after each span's last; a span begins where the one before it ends, the first at 0."""

    @property
    def masked(self) -> int:
        """How many of the student's tokens get no log-probability."""
        return int((self.student_T < 0).sum())

    def without(self, wrong_S: NDArray[np.bool_]) -> Spans:
        """The same spans, with the student's tokens of the wrong ones masked."""
        hidden_T = (self.student_T >= 0) & np.append(wrong_S, False)[self.student_T]
        return replace(self, student_T=np.where(hidden_T, -1, self.student_T))

    def sums(self, logprob_M: ArrayLike) -> NDArray[np.float64]:
        """The teacher's log-probability of each span [S]: the sum over its own tokens of it."""
        values_M = np.asarray(logprob_M, dtype=np.float64)
        if values_M.shape != self.teacher_M.shape:
            raise ValueError(
                f"logprob_M: has shape {list(values_M.shape)}, but the teacher read {len(self.teacher_M)} tokens"
            )
        inside_M = self.teacher_M >= 0
        sums_S = np.zeros(len(self.ends_S), dtype=np.float64)
        np.add.at(sums_S, self.teacher_M[inside_M], values_M[inside_M])
        return sums_S

    def spread(self, logprob_M: ArrayLike) -> NDArray[np.float32]:
        """The same by the student's tokens [T]: each holds its whole span's; 0 where masked, which nobody may read."""
        sums_S = np.append(self.sums(logprob_M), 0.0)  # the last is for -1
        return sums_S[self.student_T].astype(np.float32)


def align(student_ends: ArrayLike, teacher_ends: ArrayLike, *, limit: int | None = None) -> Spans:
    """The minimal common spans of two tokenisations of one text, from the byte at which each token ends.

    `limit`: up to this byte both have read the same; later boundaries have nothing in common but their number. A token
    without bytes belongs to the span of the token before it, at the beginning to the first. Raises ValueError where
    ends go backward.
    """
    student_T, teacher_M = _checked("student_ends", student_ends), _checked("teacher_ends", teacher_ends)
    common = np.intersect1d(student_T, teacher_M)
    ends_S = common[(common > 0) & (common <= (np.iinfo(np.int64).max if limit is None else limit))]
    return Spans(student_T=_span_of(student_T, ends_S), teacher_M=_span_of(teacher_M, ends_S), ends_S=ends_S)


def _span_of(ends: NDArray[np.int64], ends_S: NDArray[np.int64]) -> NDArray[np.int64]:
    span = np.searchsorted(ends_S, ends, side="left").astype(np.int64)
    return np.where(span < len(ends_S), span, -1)


def _checked(name: str, ends: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ends, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name}: has shape {list(array.shape)}; the ends of one text's tokens are one row")
    if array.size and (int(array[0]) < 0 or bool((np.diff(array) < 0).any())):
        raise ValueError(f"{name}: goes backward; a token ends where the one before it ends, or later")
    return array


def ends_of(pieces: list[bytes]) -> NDArray[np.int64]:
    """The byte after each token's last, from the tokens' bytes."""
    return np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


def agreement(written: bytes, read: bytes) -> int:
    """How many bytes two texts have in common from their beginning."""
    shorter = min(len(written), len(read))
    if written[:shorter] == read[:shorter]:
        return shorter
    a, b = (np.frombuffer(text, dtype=np.uint8, count=shorter) for text in (written, read))
    return int(np.argmax(a != b))
