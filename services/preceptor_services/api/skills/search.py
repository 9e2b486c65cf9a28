"""Lexical search: BM25 over the words of a few thousand short texts, in memory."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

K1, B = 1.2, 0.75
"""The usual constants: how fast repeats stop to count, and how much a long text is held back."""


def words(text: str) -> list[str]:
    """The words of a text, folded."""
    return re.findall(r"\w+", text.casefold())


def rank(query: str, texts: Sequence[str], limit: int) -> list[tuple[int, float]]:
    """Indices and scores of the texts that share a word with the query, best first, the earlier of equals first."""
    wanted = set(words(query))
    counts = [Counter(words(text)) for text in texts]
    lengths = [count.total() for count in counts]
    mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
    scores = [0.0] * len(texts)
    for word in sorted(wanted):
        holding = [index for index, count in enumerate(counts) if word in count]
        rarity = math.log(1 + (len(texts) - len(holding) + 0.5) / (len(holding) + 0.5))
        for index in holding:
            times = counts[index][word]
            scores[index] += rarity * times * (K1 + 1) / (times + K1 * (1 - B + B * lengths[index] / mean))
    found = [(index, score) for index, score in enumerate(scores) if score > 0]
    return sorted(found, key=lambda each: (-each[1], each[0]))[:limit]
