"""Texts as vectors of small integers, so that every machine ranks alike.

A vector's elements are integers within `levels(D)`. Float32 then holds every dot product exactly, whatever the order of
its sums, so that neither the number of threads nor the BLAS decides which of two skills comes first.

Shape letters: N texts, D size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import entry_points
from itertools import pairwise
from math import isqrt
from typing import Protocol

import numpy as np

from preceptor.errors import Invalid

EMBEDDERS_GROUP = "preceptor.embedders"
"""Entry points that make an `Embedder`, by the name that banks give."""
DEFAULT = "ngrams-1"
"""The embedder that needs no download."""
MOST_DIMENSIONS = 4096

_SIZE = 256
"""Of a vector: `ngrams-1` has this one."""
_WORD, _PAIR, _GRAM = 4, 2, 1
"""What a word, two words in a row, and a piece of a word count."""
_GRAMS = (3, 4)
"""Letters in a piece of a word, its two ends among them."""
_REPEATS = 3
"""Beyond this often, a word that comes again counts no more."""


class Embedder(Protocol):
    """Makes vectors of texts. Texts that mean the same point the same way; lengths have no meaning."""

    @property
    def name(self) -> str:
        """Its name, with whatever changes its vectors: a bank's vectors are kept under it."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D], any floats or integers. The same text gives the same vector, whatever its neighbours."""
        ...


class NGrams:
    """Hashed words, pairs of words and pieces of words (after fastText, arXiv:1607.04606): no model, no download."""

    name = DEFAULT

    def __init__(self) -> None:
        self._word = lru_cache(maxsize=50_000)(self._word_features)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        out_ND = np.zeros((len(texts), _SIZE), dtype=np.int32)
        for row_D, text in zip(out_ND, texts, strict=True):
            found = words(text)
            places: list[int] = []
            values: list[int] = []
            for word, times in Counter(found).items():
                at, weights = self._word(word)
                places += at
                values += [weight * min(times, _REPEATS) for weight in weights]
            for pair, times in Counter(pairwise(found)).items():
                place, sign = self._hashed(" ".join(pair))
                places.append(place)
                values.append(sign * _PAIR * min(times, _REPEATS))
            row_D += np.bincount(places, values, _SIZE).astype(np.int32)
        return out_ND

    def _word_features(self, word: str) -> tuple[list[int], list[int]]:
        """Where a word adds how much: as a whole, and by its pieces."""
        ends = f"<{word}>"
        grams = [f"#{ends[at : at + n]}" for n in _GRAMS for at in range(len(ends) - n + 1)]
        hashed = [(*self._hashed(word), _WORD), *((*self._hashed(gram), _GRAM) for gram in grams)]
        return [place for place, _, _ in hashed], [sign * weight for _, sign, weight in hashed]

    def _hashed(self, feature: str) -> tuple[int, int]:
        value = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "big")
        return value % _SIZE, 1 if value >> 63 else -1


def words(text: str) -> list[str]:
    """The words of a text, folded."""
    return re.findall(r"\w+", text.casefold())


def levels(size: int) -> int:
    """The largest integer at which `size` products still sum to what float32 holds exactly (2**24)."""
    return min(127, isqrt(2**24 // size))


def vectors(embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
    """The texts' vectors as they are kept, int8 [N, D]: each scaled to the largest integers, then rounded.

    Raises ValueError where the embedder gives something else than one finite vector a text.
    """
    if not texts:
        return np.zeros((0, 0), dtype=np.int8)
    given = np.asarray(embedder.embed(texts))
    if given.ndim != 2 or len(given) != len(texts) or not 1 <= given.shape[1] <= MOST_DIMENSIONS:
        raise ValueError(
            f"embedder {embedder.name}: {len(texts)} texts must give [{len(texts)}, 1 to {MOST_DIMENSIONS}] numbers, "
            f"not {list(given.shape)}"
        )
    given_ND = given.astype(np.float64)
    if not np.isfinite(given_ND).all():
        raise ValueError(f"embedder {embedder.name}: a vector holds NaN or infinity")
    largest_N1 = np.abs(given_ND).max(axis=1, keepdims=True)
    scaled_ND = given_ND * (levels(given_ND.shape[1]) / np.where(largest_N1 > 0, largest_N1, 1.0))
    return np.rint(scaled_ND).astype(np.int8)


def similarities(one_ND: np.ndarray, other_MD: np.ndarray) -> np.ndarray:
    """Cosines [N, M] of kept vectors, float64; 0 where one of the two is all zeros."""
    if not len(one_ND) or not len(other_MD):
        return np.zeros((len(one_ND), len(other_MD)))
    dots_NM = (one_ND.astype(np.float32) @ other_MD.astype(np.float32).T).astype(np.float64)
    return dots_NM / np.outer(norms(one_ND), norms(other_MD))


def norms(kept_ND: np.ndarray) -> np.ndarray:
    """Lengths of kept vectors [N]; 1 for a vector of zeros, which is like nothing."""
    squares_N = np.square(kept_ND.astype(np.int64)).sum(axis=1)
    return np.sqrt(np.maximum(squares_N, 1).astype(np.float64))


def open_embedder(name: str) -> Embedder:
    """The embedder of this name: ours, or one that an installed package contributes. Raises Invalid."""
    if name == DEFAULT:
        return _ngrams()
    for each in entry_points(group=EMBEDDERS_GROUP, name=name):
        return each.load()()
    known = sorted({DEFAULT, *(each.name for each in entry_points(group=EMBEDDERS_GROUP))})
    raise Invalid(
        f"embedder: there is no embedder {name!r}; there is {', '.join(known)}.",
        field="embedder",
        remedy=f"Name one of these, or install a package that contributes to the entry points {EMBEDDERS_GROUP}.",
    )


@lru_cache(maxsize=1)
def _ngrams() -> NGrams:
    """One for the process: it remembers words."""
    return NGrams()
