"""Retrieval: the texts that share words with a query and those that point its way, fused by their ranks.

The search is exact: it gives what fusing the whole of both lists would. Equal scores share a rank, and go by place.

Shape letters: N texts, D size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preceptor.skills.embedding import Embedder, norms, vectors
from preceptor.skills.lexical import Lexicon

FUSING = 60
"""Of reciprocal rank fusion (Cormack et al., SIGIR 2009): a text at rank r of a list scores 1 / (60 + r)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A text that was found."""

    place: int
    """Which: its index among the texts."""
    score: float
    """Fused; only the order has a meaning."""
    lexical: float
    """BM25."""
    similarity: float
    """Cosine of its vector and the query's, in [-1, 1]."""


class Index:
    """Texts that can be searched. Immutable, so that threads may share it."""

    def __init__(self, texts: Sequence[str], embedder: Embedder, kept_ND: np.ndarray | None = None) -> None:
        """`kept_ND`: the texts' vectors, where they are at hand (`embedding.vectors`). Raises ValueError where they are
        not one a text."""
        kept_ND = vectors(embedder, texts) if kept_ND is None else kept_ND
        if len(kept_ND) != len(texts):
            raise ValueError(f"{len(kept_ND)} vectors for {len(texts)} texts")
        self._embedder = embedder
        self._lexicon = Lexicon(texts)
        self._vectors_ND = kept_ND.astype(np.float32)
        self._norms_N = norms(kept_ND) if len(texts) else np.zeros(0)

    def __len__(self) -> int:
        return len(self._norms_N)

    def search(self, query: str, limit: int, *, least_similarity: float = -1.0) -> list[Hit]:
        """The best `limit`, best first: those that share a word with the query or are at least this similar to it."""
        if not len(self) or limit < 1:
            return []
        lexical_N, similarity_N = self._lexicon.scores(query), self._similar(query)
        eligible_N = (similarity_N >= least_similarity) | (lexical_N > 0)
        lists = ((lexical_N, lexical_N > 0), (similarity_N, eligible_N))
        # Below this depth in both lists, 2 / (60 + rank) is less than 1 / (60 + limit), which the best `limit` have.
        tops = [_top(scores_N, listed_N, FUSING + 2 * limit) for scores_N, listed_N in lists]
        places = np.union1d(*tops)
        fused = np.sum([_fused(scores_N, listed_N, places) for scores_N, listed_N in lists], axis=0)
        best = np.lexsort((places, -fused))[:limit]
        return [
            Hit(
                place=int(places[at]),
                score=float(fused[at]),
                lexical=float(lexical_N[places[at]]),
                similarity=float(similarity_N[places[at]]),
            )
            for at in best
        ]

    def _similar(self, query: str) -> np.ndarray:
        query_1D = vectors(self._embedder, [query])
        if query_1D.shape[1] != self._vectors_ND.shape[1]:
            raise ValueError(
                f"embedder {self._embedder.name}: the texts' vectors have {self._vectors_ND.shape[1]} numbers, the "
                f"query's {query_1D.shape[1]}"
            )
        dots_N = (self._vectors_ND @ query_1D[0].astype(np.float32)).astype(np.float64)
        return dots_N / (self._norms_N * norms(query_1D)[0])


def _top(scores_N: np.ndarray, listed_N: np.ndarray, depth: int) -> np.ndarray:
    """Places of the `depth` largest scores in a list, and of all that equal the last of them."""
    places = np.flatnonzero(listed_N)
    if len(places) <= depth:
        return places
    held = scores_N[places]
    return places[held >= np.partition(held, len(held) - depth)[len(held) - depth]]


def _fused(scores_N: np.ndarray, listed_N: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What a list adds to the scores of these places: nothing to one that is not in it; equals share a rank."""
    held = np.sort(scores_N[listed_N])
    before = len(held) - np.searchsorted(held, scores_N[places], side="right")
    return np.where(listed_N[places], 1 / (FUSING + 1 + before), 0.0)
