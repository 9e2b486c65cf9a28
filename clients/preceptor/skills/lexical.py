"""Lexical scores: BM25 over the words of short texts, in memory.

Shape letter: N texts.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from preceptor.skills.embedding import words

K1, B = 1.2, 0.75
"""The usual constants: how fast repeats stop to count, and how much a long text is held back."""


class Lexicon:
    """Which text holds which word, how often."""

    def __init__(self, texts: Sequence[str]) -> None:
        holding: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        lengths = np.zeros(len(texts))
        for place, text in enumerate(texts):
            counts = Counter(words(text))
            lengths[place] = counts.total()
            for word, times in counts.items():
                holding[word].append((place, times))
        mean = lengths.mean() if lengths.any() else 1.0
        held_back_N = K1 * (1 - B + B * lengths / mean)
        self._size = len(texts)
        self._scores: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, pairs in holding.items():
            places, times = np.array(pairs).T
            rarity = math.log(1 + (len(texts) - len(places) + 0.5) / (len(places) + 0.5))
            self._scores[word] = places, rarity * times * (K1 + 1) / (times + held_back_N[places])

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every text [N]; 0 where it shares no word with the query."""
        scores_N = np.zeros(self._size)
        for word in sorted(set(words(query))):
            if (found := self._scores.get(word)) is not None:
                scores_N[found[0]] += found[1]
        return scores_N
