"""Search in a skill bank: seconds a query, and whether it finds what it should.

Measured: `Index.search` for 8 skills in a bank of `--skills` texts, from the query's text to the hits; recall@8 against
fusing the whole of both lists. Texts are made of words as frequent as their rank says
(Zipf), the queries too. Not measured: the database and HTTP; an index is built once a version.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from random import Random

import numpy as np

from preceptor.skills.embedding import NGrams, similarities, vectors
from preceptor.skills.index import FUSING, Index
from preceptor.skills.lexical import Lexicon

WORDS, LIMIT = 20_000, 8
EXACT = 25
"""Queries that the whole lists are fused for."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Search in a skill bank.")
    parser.add_argument("--skills", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    rng = Random(0)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    texts = [" ".join(rng.choices(vocabulary, weights, k=rng.randint(10, 40))) for _ in range(arguments.skills)]
    queries = [" ".join(rng.choices(vocabulary, weights, k=30)) for _ in range(arguments.queries)]

    began = time.monotonic()
    kept_ND = vectors(NGrams(), texts)
    embedded = time.monotonic()
    index = Index(texts, NGrams(), kept_ND)
    built = time.monotonic()
    seconds, found = list[float](), list[set[int]]()
    for query in queries:
        start = time.monotonic()
        hits = index.search(query, LIMIT)
        seconds.append(time.monotonic() - start)
        found.append({hit.place for hit in hits})
    recall = recall_of(texts, kept_ND, queries[:EXACT], found)
    middle, late = (float(np.percentile(seconds, share)) for share in (50, 95))
    print(f"{arguments.skills} skills: p50 {1e3 * middle:.1f} ms, p95 {1e3 * late:.1f} ms, recall@{LIMIT} {recall:.3f}")
    print(f"vectors {1e6 * (embedded - began) / len(texts):.0f} us a skill, index {built - embedded:.1f} s")
    result = {
        "benchmark": "skills",
        "skills": arguments.skills,
        "p50_ms": round(1e3 * middle, 2),
        "p95_ms": round(1e3 * late, 2),
        "recall": round(recall, 4),
        "embed_us": round(1e6 * (embedded - began) / len(texts), 1),
        "index_s": round(built - embedded, 2),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
    }
    print(json.dumps(result))


def recall_of(texts: list[str], kept_ND: np.ndarray, queries: list[str], found: list[set[int]]) -> float:
    """Of the first 8 that the whole lists give, the share that was found."""
    lexicon, order_N, hits = Lexicon(texts), np.arange(len(texts)), 0
    for query, mine in zip(queries, found, strict=False):
        scores_N = np.zeros(len(texts))
        words_N, like_N = lexicon.scores(query), similarities(vectors(NGrams(), [query]), kept_ND)[0]
        for list_N, listed_N in ((words_N, words_N > 0), (like_N, np.ones(len(texts), dtype=bool))):
            before_N = (listed_N.sum() - np.searchsorted(np.sort(list_N[listed_N]), list_N, side="right")).clip(min=0)
            scores_N += np.where(listed_N, 1 / (FUSING + 1 + before_N), 0.0)
        hits += len(mine & set(np.lexsort((order_N, -scores_N))[:LIMIT].tolist()))
    return hits / (LIMIT * len(queries))


if __name__ == "__main__":
    main()
