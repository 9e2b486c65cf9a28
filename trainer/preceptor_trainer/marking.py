"""Which tokens of a rollout some pieces of its text are written in.

Shape letters: T tokens of one rollout.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preceptor.token_bytes import TokenBytes, token_bytes


class Marker:
    """Finds tokens by the student's vocabulary."""

    def __init__(self, student: Path) -> None:
        """`student`: its folder."""
        self._folder = student
        self._bytes: TokenBytes | None = None

    def inside(self, token_ids: Sequence[int], text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        """[T] whether a token writes any character of `text[begin:end]`, for one of the spans.

        Raises Unalignable where the tokenizer's tokens are not the bytes of a text.
        """
        if self._bytes is None:
            self._bytes = token_bytes(json.loads((self._folder / "tokenizer.json").read_text(encoding="utf-8")))
        pieces = [self._bytes.of(token) or b"" for token in token_ids]
        return inside(pieces, text, spans, leads=self._bytes.leading_space)


def inside(
    pieces: Sequence[bytes], text: str, spans: Sequence[tuple[int, int]], *, leads: bool = False
) -> NDArray[np.bool_]:
    """The same of tokens as bytes. A character belongs to the token that ends it.

    leads: whether the tokenizer puts a space before a first word, which is no part of the text then.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    written = [decoder.decode(piece) for piece in pieces]
    lead = int(leads and "".join(written).startswith(" ") and not text.startswith(" "))
    ends_T = np.cumsum([len(piece) for piece in written], dtype=np.int64) - lead
    begins_T = np.concatenate([np.zeros(1, dtype=np.int64), ends_T])[:-1]
    found_T = np.zeros(len(pieces), dtype=np.bool_)
    for begin, end in spans:
        found_T |= (begins_T < end) & (ends_T > begin) & (ends_T > begins_T)
    return found_T
