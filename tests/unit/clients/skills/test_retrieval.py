"""Vectors, words and both fused: exact, and the same on every machine."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from preceptor.errors import Invalid
from preceptor.skills import embedding
from preceptor.skills.embedding import MOST_DIMENSIONS, NGrams, levels, open_embedder, similarities, vectors
from preceptor.skills.index import FUSING, Index
from preceptor.skills.lexical import Lexicon
from preceptor.skills.merging import folded

SIGNS = "Change the sign of a moved term."
TEXTS = [SIGNS, "Carry the ten when a column is over nine.", "Check the result by putting it back."]


class Fixed:
    """Vectors from a table."""

    name = "fixed"

    def __init__(self, rows: dict[str, list[float]]) -> None:
        self.rows = rows

    def embed(self, texts):
        return np.array([self.rows[text] for text in texts])


def test_like_texts_have_like_vectors():
    kept_ND = vectors(NGrams(), [SIGNS, "Change the signs of the moved terms", TEXTS[1], "", SIGNS])
    assert kept_ND.dtype == np.int8 and kept_ND.shape == (5, 256)
    like = similarities(kept_ND, kept_ND)
    assert like[0, 4] == 1.0 and like[0, 1] > 0.5 > 0.3 > like[0, 2]
    assert not kept_ND[3].any() and not like[3].any(), "nothing is like a text without words"
    assert (vectors(NGrams(), [TEXTS[1]])[0] == kept_ND[2]).all(), "its neighbours change nothing"


def test_the_default_vectors_are_these_for_ever():
    """They are kept in databases: another hash or another weight is another embedder, under another name."""
    kept_D = vectors(open_embedder(embedding.DEFAULT), ["Code K writes abcd as: mqzt"])[0]
    assert np.flatnonzero(np.abs(kept_D.astype(int)) == 127).tolist() == [39, 62, 92, 187, 202]
    assert int(np.abs(kept_D.astype(int)).sum()) == 1978 and int(kept_D.astype(int) @ np.arange(256)) == 21419


def test_dot_products_are_exact_in_any_order():
    rng = np.random.default_rng(0)
    for size in (256, 1024, MOST_DIMENSIONS):
        most = levels(size)
        assert most**2 * size <= 2**24 and 1 <= most <= 127
        one_ND = rng.integers(-most, most + 1, (8, size)).astype(np.int8)
        exact = one_ND.astype(np.int64) @ one_ND.astype(np.int64).T
        lengths = np.sqrt(np.diag(exact))
        shuffled = one_ND[:, rng.permutation(size)]
        assert (similarities(one_ND, one_ND) == similarities(shuffled, shuffled)).all()
        assert (similarities(one_ND, one_ND) == exact / np.outer(lengths, lengths)).all()


def test_embedders_that_are_wrong_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"fixed: 1 texts must give \[1, 1 to 4096\] numbers, not \[1, 0\]"):
        vectors(Fixed({"a": []}), ["a"])
    with pytest.raises(ValueError, match="NaN or infinity"):
        vectors(Fixed({"a": [1.0, float("nan")]}), ["a"])
    with pytest.raises(Invalid, match="no embedder 'mine'"):
        open_embedder("mine")

    class Entry:
        name = "mine"

        def load(self):
            return lambda: Fixed({})

    monkeypatch.setattr(embedding, "entry_points", lambda group, name: [Entry()])
    assert open_embedder("mine").name == "fixed"


def test_bm25_prefers_rare_words_and_short_texts():
    lexicon = Lexicon(["common rare", "common common common", "common", "other"])
    both_N, common_N = lexicon.scores("rare common"), lexicon.scores("Common!")
    assert both_N.argmax() == 0 and both_N[3] == 0
    assert np.argsort(-common_N, kind="stable").tolist() == [1, 2, 0, 3]
    assert common_N[2] == pytest.approx(np.log(1 + 1.5 / 3.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / 1.75)))
    assert not lexicon.scores("").any() and not len(Lexicon([]).scores("common"))


def test_ranks_are_fused_and_equals_go_by_place():
    index = Index(TEXTS, NGrams())
    hits = index.search("sign of the term", 3)
    assert hits[0].place == 0 and hits[0].score == pytest.approx(2 / (FUSING + 1))
    assert hits[0].lexical > 0 and hits[0].similarity > 0.4
    assert index.search("zebra", 3, least_similarity=0.3) == []
    assert len(index.search("zebra", 3)) == 3, "a run asks for the most like, however little they are"
    same = Index([SIGNS] * 5, NGrams())
    assert [hit.place for hit in same.search(SIGNS, 3)] == [0, 1, 2]
    assert Index([], NGrams()).search("x", 3) == []
    with pytest.raises(ValueError, match="1 vectors for 2 texts"):
        Index(["a", "b"], NGrams(), vectors(NGrams(), ["a"]))


@pytest.mark.parametrize("limit", [1, 8, 25, 100])
def test_what_is_found_is_what_whole_lists_would_give(limit: int):
    """On texts of few words, which tie a lot, by their definition: every text's rank in each list."""
    rng = Random(limit)
    vocabulary = [f"w{number}" for number in range(60)]
    texts = [" ".join(rng.choices(vocabulary, k=6)) for _ in range(1500)]
    index, kept_ND, lexicon = Index(texts, NGrams()), vectors(NGrams(), texts), Lexicon(texts)
    for _ in range(5):
        query = " ".join(rng.choices(vocabulary, k=6))
        scores_N = np.zeros(len(texts))
        for list_N, listed_N in (
            (lexicon.scores(query), lexicon.scores(query) > 0),
            (similarities(vectors(NGrams(), [query]), kept_ND)[0], np.ones(len(texts), dtype=bool)),
        ):
            before_N = (list_N[listed_N][None, :] > list_N[:, None]).sum(axis=1)
            scores_N += np.where(listed_N, 1 / (FUSING + 1 + before_N), 0.0)
        exact = np.lexsort((np.arange(len(texts)), -scores_N))[:limit]
        assert [hit.place for hit in index.search(query, limit)] == exact.tolist()


def test_near_duplicates_fold_into_the_first_that_says_it():
    table = Fixed({"x": [1, 0], "y": [0, 1], "xy": [1, 1]})
    held_ND, new_MD = vectors(table, ["x"]), vectors(table, ["y", "x", "y", "xy"])
    assert folded(new_MD, held_ND, 0.99) == [1, 0, 1, 4], "y is new, x is held, y again folds into the new y, xy is new"
    assert folded(new_MD, held_ND, 0.7) == [1, 0, 1, 0], "of two as like, the one that is there goes first"
    assert folded(new_MD, held_ND, None) == [1, 2, 3, 4]
    assert folded(new_MD, new_MD[:0], 0.99) == [0, 1, 0, 3]
    assert folded(new_MD[:0], held_ND, 0.99) == []
