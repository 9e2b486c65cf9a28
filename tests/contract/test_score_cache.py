"""Scores that are kept: an answer through the cache is the direct answer, bit for bit, cold, half warm and warm."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.errors import TeacherUnavailable
from preceptor.score_cache import ScoreCache, keeps
from preceptor.split import part_of
from preceptor.wire.score import Extra, HiddenDtype, Numbers, ScoreRequest, Scores
from preceptor.wire.teachers import Card, Support
from tests.contract.teaching import Teaching, V, asked, table, teaching

BOUND = 1 << 24
By = Literal["request", "completion"]
EACH_WAY = pytest.mark.parametrize("by", ["request", "completion"])


@pytest.fixture(scope="module")
def taught() -> Iterator[Teaching]:
    with teaching(table()) as taught:
        yield taught


@pytest.fixture(scope="module")
def card(taught: Teaching) -> Card:
    return taught.client.card().model_copy(update={"weights_hash": "sha256:" + "1" * 64})


class Asking:
    """Asks the teacher, and remembers what was asked."""

    def __init__(self, score: Callable[[ScoreRequest], Scores]) -> None:
        self._score = score
        self.requests: list[ScoreRequest] = []

    def __call__(self, request: ScoreRequest) -> Scores:
        self.requests.append(request)
        return self._score(request)

    @property
    def completions(self) -> int:
        return sum(len(request.completions) for request in self.requests)


@st.composite
def requests(draw: st.DrawFn) -> ScoreRequest:
    ids = st.lists(st.integers(0, V - 1), max_size=4)
    contexts = draw(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=3), min_size=1, max_size=3))
    completions = draw(st.lists(ids, max_size=4))
    total = sum(map(len, completions))
    support = draw(st.sampled_from(list(Support)))
    candidates = None
    if support is Support.IDS:
        rows = [draw(st.permutations(range(-1, 4))) for _ in range(total)]
        candidates = np.array(rows, dtype=np.int32).reshape(total, 5)
    mask = draw(st.none() | st.lists(st.booleans(), min_size=total, max_size=total))
    return asked(
        contexts,
        completions,
        support,
        context_of=np.array([draw(st.integers(0, len(contexts) - 1)) for _ in completions], dtype=np.int32),
        temperature=draw(st.sampled_from([1.0, 0.5])),
        extras=draw(st.frozensets(st.sampled_from(list(Extra)))),
        dtype=draw(st.sampled_from(list(HiddenDtype))),
        candidate_ids=candidates,
        position_mask=None if mask is None else np.array(mask, dtype=np.bool_),
    )


def assert_same(one: Scores, two: Scores) -> None:
    """The same numbers, to the last bit, of the same contexts. Only the seconds that they took may differ."""
    for name in (each.name for each in fields(Numbers)):
        left, right = getattr(one, name), getattr(two, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and left.shape == right.shape, name
            assert left.tobytes() == right.tobytes(), name
        else:
            assert left == right, name
    seconds = {"queued_seconds": 0.0, "computed_seconds": 0.0}
    assert one.stamp.model_copy(update=seconds) == two.stamp.model_copy(update=seconds)


@EACH_WAY
@given(data=st.data())
def test_an_answer_through_the_cache_is_the_direct_answer(
    taught: Teaching, card: Card, by: By, data: st.DataObject
) -> None:
    request = data.draw(requests())
    known = (
        data.draw(st.lists(st.sampled_from(range(len(request.completions))), unique=True))
        if len(request.completions)
        else list[int]()
    )
    direct = taught.client.score(request)
    with tempfile.TemporaryDirectory() as folder:
        cache = ScoreCache(Path(folder), BOUND, by=by)
        if known:
            some = part_of(request, known)
            assert_same(cache.answer(card, some, taught.client.score)[0], taught.client.score(some))
        partly, hits = cache.answer(card, request, taught.client.score)
        assert_same(partly, direct)
        assert hits >= len(known) if by == "completion" else hits in (0, len(request.completions))
        again = ScoreCache(Path(folder), BOUND, by=by)
        asking = Asking(taught.client.score)
        warm, hits = again.answer(card, request, asking)
        assert_same(warm, direct)
        assert hits == len(request.completions) and asking.completions == 0


def test_only_what_is_missing_is_asked_and_joined_in_order(taught: Teaching, card: Card, tmp_path: Path) -> None:
    cache, asking = ScoreCache(tmp_path, BOUND, by="completion"), Asking(taught.client.score)
    contexts = ((1, 2), (3,), (4, 5))
    first = asked(contexts, ((6,), (7, 8)), context_of=np.array([2, 0], dtype=np.int32))
    cache.answer(card, first, asking)
    wider = asked(contexts, ((9,), (7, 8), (6,), (6,)), context_of=np.array([1, 0, 2, 0], dtype=np.int32))
    scores, hits = cache.answer(card, wider, asking)
    assert hits == 2, "the same tokens behind another context are another question"
    asked_for = asking.requests[-1]
    assert [ids.tolist() for ids in asked_for.completions] == [[9], [6]]
    assert [ids.tolist() for ids in asked_for.contexts] == [[1, 2], [3]], "no context goes that nobody asks about"
    assert_same(scores, taught.client.score(wider))


def test_by_request_a_part_of_it_is_no_hit(taught: Teaching, card: Card, tmp_path: Path) -> None:
    """A teacher's last bits depend on what it scores together: they must not depend on what was asked before."""
    cache, asking = ScoreCache(tmp_path, BOUND), Asking(taught.client.score)
    request = asked()
    cache.answer(card, part_of(request, [0]), asking)
    assert cache.answer(card, request, asking)[1] == 0
    assert asking.requests[-1] is request, "it goes as it is"
    assert cache.answer(card, request, asking)[1] == 3


CHANGES: dict[str, Any] = {
    "support": {"support": Support.TOPK, "k": 3},
    "temperature": {"temperature": 0.5},
    "extras": {"extras": frozenset({Extra.RANK})},
    "mask": {"position_mask": np.array([True, False, True])},
    "context": {"contexts": [np.array([1, 2], dtype=np.int32)]},
}


@EACH_WAY
@pytest.mark.parametrize("change", CHANGES)
def test_another_question_is_asked(taught: Teaching, card: Card, tmp_path: Path, by: By, change: str) -> None:
    cache = ScoreCache(tmp_path, BOUND, by=by)
    cache.answer(card, asked(), taught.client.score)
    other = replace(asked(), **CHANGES[change])
    scores, hits = cache.answer(card, other, taught.client.score)
    assert hits == 0
    assert_same(scores, taught.client.score(other))


@EACH_WAY
def test_k_dtype_and_candidates_are_part_of_the_question(taught: Teaching, card: Card, tmp_path: Path, by: By) -> None:
    cache = ScoreCache(tmp_path, BOUND, by=by)
    candidates = np.arange(9, dtype=np.int32).reshape(3, 3)
    ways: list[dict[str, Any]] = [
        {"support": Support.TOPK, "k": 2},
        {"support": Support.TOPK, "k": 3},
        *({"support": Support.FULL, "dtype": dtype} for dtype in HiddenDtype),
        {"support": Support.IDS, "candidate_ids": candidates},
        {"support": Support.IDS, "candidate_ids": candidates[::-1].copy()},
    ]
    whole = [asked(completions=((4, 5, 6),), **way) for way in ways]
    for request in whole:
        assert cache.answer(card, request, taught.client.score)[1] == 0
    for request in whole:
        scores, hits = cache.answer(card, request, taught.client.score)
        assert hits == 1
        assert_same(scores, taught.client.score(request))


def test_who_asks_and_how_long_they_wait_is_no_part_of_it(taught: Teaching, card: Card, tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, BOUND)
    cache.answer(card, asked(request_id="one", deadline_ms=1000), taught.client.score)
    assert cache.answer(card, asked(request_id="two", weights_version=0), taught.client.score)[1] == 3


def test_the_stamp_stays_the_one_that_the_scores_came_with(taught: Teaching, card: Card, tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, BOUND)
    first, _ = cache.answer(card, asked(), taught.client.score)
    assert cache.answer(card, asked(), taught.client.score)[0].stamp == first.stamp


OTHERS: dict[str, Any] = {
    "version": {"weights_version": 1},
    "weights": {"weights_hash": "sha256:" + "2" * 64},
    "teacher": {"teacher": "another"},
    "engine": {"engine": "table 2"},
}


@EACH_WAY
@pytest.mark.parametrize("change", OTHERS)
def test_another_teacher_or_version_is_asked(taught: Teaching, card: Card, tmp_path: Path, by: By, change: str) -> None:
    cache, asking = ScoreCache(tmp_path, BOUND, by=by), Asking(taught.client.score)
    cache.answer(card, asked(), asking)
    moved = card.model_copy(update=OTHERS[change])
    stamped = {name: value for name, value in OTHERS[change].items() if name != "weights_hash"}
    assert cache.answer(moved, asked(), lambda some: with_stamp(taught.client.score(some), **stamped))[1] == 0
    assert cache.answer(card, asked(), asking)[1] == 3, "the old entries are untouched"


def with_stamp(scores: Scores, **changes: Any) -> Scores:
    return replace(scores, stamp=scores.stamp.model_copy(update=changes))


@EACH_WAY
def test_what_someone_else_answered_is_not_kept_and_not_mixed(
    taught: Teaching, card: Card, tmp_path: Path, by: By
) -> None:
    """A fallback answers, or the teacher was restarted with other weights: its stamp tells."""
    cache = ScoreCache(tmp_path, BOUND, by=by)
    cache.answer(card, part_of(asked(), [0]), taught.client.score)
    fallback = Asking(lambda request: with_stamp(taught.client.score(request), weights_version=7))
    scores, hits = cache.answer(card, asked(), fallback)
    assert hits == 0 and scores.stamp.weights_version == 7
    assert len(fallback.requests[-1].completions) == 3, "all of it is the other's"
    asking = Asking(taught.client.score)
    cache.answer(card, asked(), asking)
    assert asking.completions == (2 if by == "completion" else 3)


def test_a_teacher_that_may_move_or_names_no_weights_is_asked_every_time(
    taught: Teaching, card: Card, tmp_path: Path
) -> None:
    for change in ({"moves": True}, {"weights_hash": None}):
        other = card.model_copy(update=change)
        assert keeps(card) and not keeps(other)
        cache, asking = ScoreCache(tmp_path, BOUND), Asking(taught.client.score)
        for _ in range(2):
            assert cache.answer(other, asked(), asking)[1] == 0
        assert len(asking.requests) == 2
    assert not list(tmp_path.iterdir())


def test_a_pinned_version_that_is_not_the_cards_is_the_teachers_to_refuse(
    taught: Teaching, card: Card, tmp_path: Path
) -> None:
    cache, asking = ScoreCache(tmp_path, BOUND), Asking(lambda request: taught.client.score(asked()))
    cache.answer(card, asked(), asking)
    cache.answer(card, asked(weights_version=5), asking)
    assert asking.requests[-1].weights_version == 5


@EACH_WAY
def test_damaged_entries_are_asked_for_again(taught: Teaching, card: Card, tmp_path: Path, by: By) -> None:
    cache = ScoreCache(tmp_path, BOUND, by=by)
    direct, _ = cache.answer(card, asked(), taught.client.score)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in kept:
        path.write_bytes(path.read_bytes()[:-3])
    asking = Asking(taught.client.score)
    scores, hits = cache.answer(card, asked(), asking)
    assert hits == 0 and asking.requests
    assert_same(scores, direct)
    assert cache.answer(card, asked(), asking)[1] == 3


def test_a_teacher_that_does_not_answer_leaves_nothing_behind(card: Card, tmp_path: Path) -> None:
    def down(request: ScoreRequest) -> Scores:
        raise TeacherUnavailable("It is down.", teacher="math")

    with pytest.raises(TeacherUnavailable):
        ScoreCache(tmp_path, BOUND).answer(card, asked(), down)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_costs_hits_and_not_the_run(
    taught: Teaching, card: Card, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ScoreCache(tmp_path / "file", BOUND)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(cache.answer(card, asked(), taught.client.score)[0], taught.client.score(asked()))
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


def test_nothing_asked_is_nothing_kept(taught: Teaching, card: Card, tmp_path: Path) -> None:
    empty = asked(completions=(), context_of=np.zeros(0, dtype=np.int32))
    assert ScoreCache(tmp_path, BOUND).answer(card, empty, taught.client.score)[1] == 0
