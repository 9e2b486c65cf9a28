"""The pool and what it keeps: hits are counted and never sent, what someone else answered is never a hit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preceptor.errors import TeacherRefused
from preceptor.score_cache import ScoreCache
from preceptor.wire.score import Scores
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.backends.table import TableBackend
from tests.contract.replicas import KEY_ENV, house
from tests.contract.teaching import KEY, V, asked, table

BOUND = 1 << 24
MANY = asked(
    contexts=tuple((index,) * 6 for index in range(5)),
    completions=tuple((index % V,) * (index % 4) for index in range(20)),
    context_of=np.arange(20, dtype=np.int32) % 5,
    support=Support.TOPK,
)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)


def named(digit: int, seed: int = 0, **more: int) -> TableBackend:
    """A table that says by a hash which weights it has."""
    backend = table(seed, **more)
    backend.about = replace(backend.about, weights_hash=f"sha256:{digit:064x}")
    return backend


def same(one: Scores, other: Scores) -> bool:
    pairs = [(one.logprob_T, other.logprob_T), (one.logprobs_TK, other.logprobs_TK), (one.ids_TK, other.ids_TK)]
    return all(mine is not None and its is not None and mine.tobytes() == its.tobytes() for mine, its in pairs)


def test_hits_are_counted_and_nothing_is_sent(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores", BOUND)
    settings = {"teacher_max_batch_tokens": 50}
    with house(tmp_path, {"a": named(1, max_tokens=32)}, scores=cache, settings=settings) as there:
        cold = there.score(MANY)
        first = there.ledger()
        assert (first.cache_hits, first.sequences) == (0, 20) and first.requests > 2, "it was split"
        warm = there.score(MANY)
        second = there.ledger()
        assert same(cold, warm) and warm.stamp == cold.stamp
        assert (second.cache_hits, second.sequences, second.requests, second.bytes_sent) == (20, 0, 0, 0)


def test_another_pool_finds_what_one_has_kept(tmp_path: Path) -> None:
    for hits in (0, 20):
        cache = ScoreCache(tmp_path / "scores", BOUND)
        with house(tmp_path, {"a": named(1)}, scores=cache) as there:
            there.score(MANY)
            assert there.ledger().cache_hits == hits


def test_by_completion_only_what_is_missing_is_sent(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores", BOUND, by="completion")
    some = asked(contexts=((1,) * 6,), completions=((1,), (5,), (9,)), support=Support.TOPK)
    with house(tmp_path, {"a": named(1)}) as direct:
        expected = direct.score(some)
    with house(tmp_path, {"a": named(1)}, scores=cache) as there:
        there.score(asked(contexts=((1,) * 6,), completions=((5,),), support=Support.TOPK))
        there.ledger()
        assert same(there.score(some), expected)
        ledger = there.ledger()
        assert (ledger.cache_hits, ledger.sequences, ledger.tokens) == (1, 2, 2)


def test_other_weights_are_asked(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores", BOUND)
    with house(tmp_path, {"a": named(1)}, scores=cache) as there:
        before = there.score(MANY)
    with house(tmp_path, {"a": named(2, seed=1)}, scores=cache) as there:
        after = there.score(MANY)
        assert there.ledger().cache_hits == 0
    assert not same(before, after)


def test_a_teacher_that_names_no_weights_is_asked_every_time(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores", BOUND)
    with house(tmp_path, {"a": table()}, scores=cache) as there:
        for _ in range(2):
            there.score(MANY)
            ledger = there.ledger()
            assert ledger.cache_hits == 0 and ledger.requests == 1


def test_what_a_fallback_answered_is_the_fallbacks(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores", BOUND)
    backends: dict[str, Backend] = {"a": named(1), "b": named(2, seed=1)}
    with house(tmp_path, backends, fallback="b", scores=cache, deadline=0.5) as there:
        there.hosts.away.add("a")
        spare = there.score(MANY, on_failure="fallback")
        again = there.score(MANY, on_failure="fallback")
        ledger = there.ledger()
        assert (spare.stamp.teacher, again.stamp.teacher) == ("other", "other") and same(spare, again)
        assert ledger.fallbacks == 2 and ledger.cache_hits == 20
    with house(tmp_path, backends, fallback="b", scores=cache) as there:
        own = there.score(MANY, on_failure="fallback")
        assert own.stamp.teacher == "math" and there.ledger().cache_hits == 0 and not same(own, spare)


def test_what_does_not_suit_the_teacher_is_refused_all_the_same(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores", BOUND)
    with house(tmp_path, {"a": named(1)}, scores=cache) as there, pytest.raises(TeacherRefused, match="vocabulary"):
        there.score(asked(completions=((V,),)))
    assert not (tmp_path / "scores").exists()
