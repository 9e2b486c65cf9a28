"""The pool: split and joined, tried again, refused before it is sent, judged, counted, heads kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor.endpoint import TeacherClient
from preceptor.errors import BadScores, Invalid, TeacherRefused, TeacherUnavailable
from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.score import Extra, Numbers
from preceptor.wire.teachers import Card, Support
from tests.clock import Clock
from tests.contract.teaching import KEY, URL, Spoilt, Teaching, V, asked, spoil, table, teaching


class Flaky(httpx.BaseTransport):
    """Fails as told before it lets a request through."""

    def __init__(self, through: httpx.BaseTransport, failures: list[Exception | httpx.Response]) -> None:
        self._through, self._failures = through, failures
        self.requests: list[httpx.Request] = []
        self.path = "/v1/score"

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        if request.url.path == self.path and self._failures:
            failure = self._failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        return self._through.handle_request(request)


@contextmanager
def pooled(
    taught: Teaching, cache: Path, *failures: Exception | httpx.Response, card: Card | None = None, **more: Any
) -> Iterator[tuple[TeacherPool, Flaky, list[float]]]:
    flaky, clock = Flaky(taught.bridge, list(failures)), Clock()
    known = card or taught.client.card()
    endpoint = TeacherEndpoint(name="math", url=URL, key_env="MATH_KEY", card=known)
    with TeacherPool({"expert": endpoint}, cache, transport=flaky, clock=clock, sleep=clock.sleep, **more) as pool:
        yield pool, flaky, clock.slept


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATH_KEY", KEY)


@pytest.fixture(scope="module")
def taught() -> Iterator[Teaching]:
    with teaching(table(max_tokens=64), teacher_max_batch_tokens=64) as taught:
        yield taught


MANY: dict[str, Any] = {
    "contexts": tuple((index,) * 6 for index in range(5)),
    "completions": tuple((index % V,) * (index % 4) for index in range(20)),
    "context_of": np.arange(20, dtype=np.int32) % 5,
}


@pytest.mark.parametrize("support", list(Support))
def test_what_is_too_much_at_once_is_split_and_nobody_sees_it(
    taught: Teaching, tmp_path: Path, support: Support
) -> None:
    total = sum(map(len, MANY["completions"]))
    candidates = np.tile(np.arange(3, dtype=np.int32), (total, 1)) if support is Support.IDS else None
    mask = np.arange(total) % 3 != 0
    extras = frozenset(Extra)
    request = asked(support=support, candidate_ids=candidates, position_mask=mask, extras=extras, **MANY)
    with teaching(table(max_tokens=64)) as large:
        whole = large.client.score(request)
    with pooled(taught, tmp_path) as (pool, flaky, _):
        scores = pool.score("expert", request)
        assert sum(each.url.path == "/v1/score" for each in flaky.requests) > 2
    for name in ("offsets", "logprob_T", "ids_TK", "logprobs_TK", "tail_T", "hidden_TD", "entropy_T", "rank_T"):
        np.testing.assert_array_equal(getattr(scores, name), getattr(whole, name), err_msg=name)
    assert scores.stamp.context_hashes == whole.stamp.context_hashes


def test_the_ledger_counts_what_passed(taught: Teaching, tmp_path: Path) -> None:
    with pooled(taught, tmp_path, httpx.ConnectError("refused")) as (pool, flaky, _):
        pool.score("expert", asked())
        head = pool.head("expert")
        ledger = pool.take_ledger()["expert"]
        sent = [each for each in flaky.requests if each.url.path == "/v1/score"]
        assert (ledger.requests, ledger.retries, ledger.sequences, ledger.tokens) == (2, 1, 3, 3)
        assert ledger.bytes_sent == sum(len(each.content) for each in sent) and ledger.bytes_received > 12
        assert ledger.head_bytes > head.weight_VD.nbytes and ledger.seconds > 0 and ledger.weights_versions == [0]
        assert pool.take_ledger()["expert"].requests == 0


def test_the_ledger_counts_across_threads(taught: Teaching, tmp_path: Path) -> None:
    with pooled(taught, tmp_path) as (pool, _, _), ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: pool.score("expert", asked()), range(40)))
        ledger = pool.take_ledger()["expert"]
    assert (ledger.requests, ledger.sequences, ledger.tokens) == (40, 120, 120)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("cut off"),
        httpx.ReadTimeout("late"),
        httpx.Response(429, headers={"Retry-After": "3"}),
        httpx.Response(503),
        httpx.Response(502),
    ],
    ids=lambda failure: type(failure).__name__ + str(getattr(failure, "status_code", "")),
)
def test_what_may_pass_is_tried_again(taught: Teaching, tmp_path: Path, failure: Exception | httpx.Response) -> None:
    with pooled(taught, tmp_path, failure, failure) as (pool, _, slept):
        pool.score("expert", asked())
        assert len(slept) == 2
        if isinstance(failure, httpx.Response) and failure.status_code == 429:
            assert all(3 <= pause < 4 for pause in slept)


def test_a_deadline_ends_the_trying(taught: Teaching, tmp_path: Path) -> None:
    failures = [httpx.ConnectError("refused") for _ in range(100)]
    with pooled(taught, tmp_path, *failures, deadline=0.5, wait=0) as (pool, _, slept):
        with pytest.raises(TeacherUnavailable, match=r"'math' gave no answer in 0\.5 s") as caught:
            pool.score("expert", asked())
        assert caught.value.teacher == "math" and sum(slept) < 60


def test_a_server_that_breaks_is_not_asked_again(taught: Teaching, tmp_path: Path) -> None:
    with pooled(taught, tmp_path, httpx.Response(500)) as (pool, _, slept):
        with pytest.raises(TeacherUnavailable):
            pool.score("expert", asked())
        assert not slept


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"contexts": ((1,) * 64,)}, "contexts"),
        ({"contexts": ((V,),)}, "contexts"),
        ({"support": Support.TOPK, "k": V + 1}, "k"),
    ],
)
def test_what_does_not_suit_the_teacher_is_refused_before_it_is_sent(
    taught: Teaching, tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with pooled(taught, tmp_path) as (pool, flaky, _):
        with pytest.raises(TeacherRefused) as caught:
            pool.score("expert", asked(**changes))
        assert caught.value.teacher == "math" and caught.value.problem.field == field
        assert all(each.url.path != "/v1/score" for each in flaky.requests)


NAN, INF = float("nan"), float("inf")


def first(value: float, name: str) -> Any:
    def change(numbers: Numbers, request: object) -> Numbers:
        array = getattr(numbers, name).copy()
        array[(1, *[0] * (array.ndim - 1))] = value
        return spoil(numbers, **{name: array})

    return change


@pytest.mark.parametrize(
    ("support", "value", "name"),
    [
        (Support.SAMPLED, NAN, "logprob_T"),
        (Support.SAMPLED, INF, "logprob_T"),
        (Support.SAMPLED, -INF, "logprob_T"),
        (Support.SAMPLED, 0.5, "logprob_T"),
        (Support.SAMPLED, NAN, "entropy_T"),
        (Support.SAMPLED, -1, "rank_T"),
        (Support.TOPK, NAN, "logprobs_TK"),
        (Support.TOPK, INF, "logprobs_TK"),
        (Support.TOPK, INF, "tail_T"),
        (Support.TOPK, V, "ids_TK"),
        (Support.TOPK, -1, "ids_TK"),
        (Support.FULL, NAN, "hidden_TD"),
        (Support.FULL, -INF, "hidden_TD"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused_with_name_and_position(
    tmp_path: Path, support: Support, value: float, name: str
) -> None:
    extras = frozenset(Extra)
    with teaching(Spoilt(first(value, name))) as taught, pooled(taught, tmp_path) as (pool, _, _):
        with pytest.raises(BadScores, match=r"'math' .* is -?\w+(\.\d+)? at token 1 of completion 0") as caught:
            pool.score("expert", asked(support=support, extras=extras))
        assert caught.value.teacher == "math"


def test_minus_infinity_off_the_written_token_is_a_legal_zero(tmp_path: Path) -> None:
    with teaching(Spoilt(first(-INF, "logprobs_TK"))) as taught, pooled(taught, tmp_path) as (pool, _, _):
        scores = pool.score("expert", asked(support=Support.TOPK))
        assert scores.logprobs_TK is not None and scores.logprobs_TK[1, 0] == -INF


def test_an_answer_cut_short_is_refused(taught: Teaching, tmp_path: Path) -> None:
    with (
        pooled(taught, tmp_path, httpx.Response(200, content=b"short")) as (pool, _, _),
        pytest.raises(BadScores, match="'math': The answer is malformed"),
    ):
        pool.score("expert", asked())


def test_a_head_is_fetched_once_and_kept(taught: Teaching, tmp_path: Path) -> None:
    fetched: list[int] = []
    for _ in range(2):
        with pooled(taught, tmp_path) as (pool, flaky, _):
            head = pool.head("expert")
            pool.head("expert")
            fetched.append(sum(each.url.path == "/v1/head" for each in flaky.requests))
    assert fetched == [1, 0]
    head = taught.client.head()
    assert [path.name for path in tmp_path.iterdir()] == [f"{head.hash.removeprefix('sha256:')}.safetensors"]


def test_scores_whose_head_nobody_gives_are_dropped_where_that_is_wanted(taught: Teaching, tmp_path: Path) -> None:
    failures = [httpx.ConnectError("refused") for _ in range(100)]
    with pooled(taught, tmp_path, *failures, deadline=0.5, wait=60) as (pool, flaky, slept):
        flaky.path = "/v1/head"
        hash = pool.score("expert", asked(), on_failure="drop").stamp.head_hash
        with pytest.raises(TeacherUnavailable, match=r"'math' gave no answer in 0\.5 s"):
            pool.head("expert", hash, on_failure="drop", completions=3)
        assert 0 < sum(slept) <= 0.5
        slept.clear()
        with pytest.raises(TeacherUnavailable):
            pool.head("expert", hash, on_failure="drop", completions=3)
        assert not slept, "who is known to be away is not waited for"
        assert pool.take_ledger()["expert"].dropped == 6


def test_a_head_that_another_process_takes_away_is_fetched_again(
    taught: Teaching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several workers share the folder, and each keeps its own last ones there."""
    with pooled(taught, tmp_path) as (pool, _, _):
        head, read = pool.head("expert"), Path.read_bytes
        (kept,) = tmp_path.iterdir()

        def too_late(path: Path) -> bytes:
            monkeypatch.undo()
            kept.unlink()
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", too_late)
        np.testing.assert_array_equal(pool.head("expert").weight_VD, head.weight_VD)
        assert kept.exists()
    whole = taught.client.download_head(tmp_path / "part", since=tmp_path / "gone")
    assert whole == head.hash


def test_a_damaged_head_is_fetched_again(taught: Teaching, tmp_path: Path) -> None:
    with pooled(taught, tmp_path) as (pool, _, _):
        head = pool.head("expert")
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
    with pooled(taught, tmp_path) as (pool, _, _):
        np.testing.assert_array_equal(pool.head("expert").weight_VD, head.weight_VD)


def test_another_tokenizer_than_at_submit_is_refused(taught: Teaching, tmp_path: Path) -> None:
    card = taught.client.card()
    other = card.tokenizer.model_copy(update={"fingerprint": "sha256:" + "f" * 64})
    with (
        pooled(taught, tmp_path, card=card.model_copy(update={"tokenizer": other})) as (pool, _, _),
        pytest.raises(TeacherRefused, match="now has the tokenizer"),
    ):
        pool.score("expert", asked())


def test_a_wrong_key_is_the_teachers_refusal(taught: Teaching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATH_KEY", "wrong")
    with pooled(taught, tmp_path) as (pool, _, _), pytest.raises(TeacherRefused, match="'math' refused"):
        pool.score("expert", asked())


def test_keys_come_from_files_too_and_a_missing_one_is_named(
    taught: Teaching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MATH_KEY")
    with pytest.raises(Invalid, match="MATH_KEY, which is not set here"), pooled(taught, tmp_path):
        pass
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.setenv("MATH_KEY_FILE", str(tmp_path / "key"))
    with pooled(taught, tmp_path / "cache") as (pool, _, _):
        assert pool.card("expert").teacher == "teacher"


def test_an_unknown_role_is_named(taught: Teaching, tmp_path: Path) -> None:
    with pooled(taught, tmp_path) as (pool, _, _), pytest.raises(Invalid, match="'critic'; it has expert"):
        pool.score("critic", asked())


def test_a_url_that_is_none_is_said() -> None:
    with pytest.raises(Invalid, match="not a URL"):
        TeacherClient("http://host:port")
