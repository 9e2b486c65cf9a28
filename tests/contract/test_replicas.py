"""Several endpoints of one teacher: routed, failed over, left alone, replaced, agreed on what they are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from preceptor.errors import TeacherRefused, TeacherUnavailable, VersionsDisagree
from preceptor.replica import LOOK_AGAIN
from preceptor.wire.score import Numbers, ScoreRequest, Scores
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.table import TableBackend, hashed
from tests.contract.replicas import KEY_ENV, address, house
from tests.contract.teaching import KEY, Slow, V, asked, table


@pytest.fixture(autouse=True)
def _as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr("preceptor.hedge.SAMPLES", 10**9)  # a busy machine makes no second request here


def about(context: int) -> ScoreRequest:
    """A request about one context that no other has."""
    return asked(contexts=((context % V, context // V, 1),))


def same(one: Scores, other: Scores) -> bool:
    return np.array_equal(one.logprob_T, other.logprob_T)


def test_contexts_are_spread_and_each_stays_where_it_was_read(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        went: dict[int, set[str]] = {}
        for _ in range(3):
            for context in range(16):
                there.hosts.forget()
                there.score(about(context))
                went.setdefault(context, set()).update(there.hosts.scored())
        ledger = there.ledger()
        assert all(len(hosts) == 1 for hosts in went.values())
        assert {host for hosts in went.values() for host in hosts} == {"a", "b"}
        assert ledger.requests == 48 == sum(ledger.endpoints.values())
        assert ledger.endpoints.keys() == {"http://a", "http://b"}
        assert (ledger.retries, ledger.failovers, ledger.hedges) == (0, 0, 0)


def test_what_one_endpoint_fails_another_answers_at_once(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        undisturbed = there.score()
        (home,) = there.hosts.scored()
        there.hosts.away.add(home)
        there.ledger()
        assert same(there.score(), undisturbed)
        ledger = there.ledger()
        assert (ledger.requests, ledger.retries, ledger.failovers) == (2, 1, 1)
        assert not there.clock.slept and ledger.waited_seconds == 0


@pytest.mark.parametrize("status", [500, 502, 503, 401, 404])
def test_what_is_wrong_with_one_endpoint_is_not_wrong_with_all(tmp_path: Path, status: int) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        undisturbed = there.score()
        (home,) = there.hosts.scored()
        there.hosts.say[home] = lambda: httpx.Response(status)
        assert same(there.score(), undisturbed)
        assert not there.clock.slept
        assert there.ledger().refused == (status in (401, 404))


def test_a_fault_that_all_endpoints_have_is_raised_without_waiting(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        there.hosts.say = dict.fromkeys("ab", lambda: httpx.Response(500))
        with pytest.raises(TeacherUnavailable, match="500"):
            there.score()
        assert sorted(there.hosts.scored()) == ["a", "b"] and not there.clock.slept


def test_an_endpoint_with_a_full_queue_is_left_in_peace_for_as_long_as_it_asks(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        there.score()
        (home,) = there.hosts.scored()
        there.hosts.say[home] = lambda: httpx.Response(429, headers={"Retry-After": "30"})
        there.hosts.forget()
        for _ in range(4):
            there.score()
        assert Counter(there.hosts.scored())[home] == 1
        there.clock.now += 31
        del there.hosts.say[home]
        there.hosts.forget()
        there.score()
        assert there.hosts.scored() == [home], "the context is still remembered there"


def test_an_endpoint_that_keeps_failing_is_left_alone_then_tried_with_one_request(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        there.score()
        (home,) = there.hosts.scored()
        contexts = iter(range(V * V))

        def many() -> int:
            """How often it is asked anything while many contexts are scored that nobody has read."""
            there.hosts.forget()
            for _ in range(20):
                there.score(about(next(contexts)))
            return sum(host == home for host, _ in there.hosts.requests)

        there.hosts.away.add(home)
        assert many() == 3, "the breaker opens"
        assert many() == 0
        there.clock.now += 1.5
        assert many() == 1, "half open: one request is let through, and fails"
        there.hosts.away.clear()
        there.clock.now += 1.5
        assert many() == 0, "it is left alone for twice as long"
        there.clock.now += 1.0
        assert many() > 3, "it works again"


class Versioned(TableBackend):
    """A table of another content for every weights version."""

    def __init__(self, version: int = 0) -> None:
        super().__init__(hashed(V, version), V, max_tokens=64)
        self.load(version)

    def load(self, version: int) -> None:
        self._logits, self.about = hashed(V, version), replace(self.about, weights_version=version)


def test_endpoints_of_another_weights_version_are_not_asked(tmp_path: Path) -> None:
    with house(tmp_path, {"a": Versioned(1), "b": Versioned(2)}) as there:
        for context in range(12):
            there.score(about(context))
        there.hosts.forget()
        for context in range(12):
            assert there.score(about(context)).stamp.weights_version == 2
        assert set(there.hosts.scored()) == {"b"}


def test_when_none_has_the_version_that_was_seen_each_is_named_with_its_own(tmp_path: Path) -> None:
    new, old = Versioned(2), Versioned(1)
    with house(tmp_path, {"a": new, "b": old}) as there:
        for context in range(12):
            there.score(about(context))
        new.load(0)  # it was started again, and has lost what was loaded into it
        with pytest.raises(VersionsDisagree, match=r"serves weights version 2: http://a is at 0; http://b is at 1"):
            there.score()
        old.load(2)
        there.clock.now += LOOK_AGAIN
        assert there.score().stamp.weights_version == 2, "looked at again after a while"


@pytest.mark.parametrize("names", ["a", "ab"])
def test_weights_that_move_in_the_middle_of_a_request_begin_it_again(tmp_path: Path, names: str) -> None:
    """All parts of one request are of one version, and it is the newest."""
    backends = {name: Versioned() for name in names}
    with house(tmp_path, {**backends}, settings={"teacher_max_batch_tokens": 64}) as there:
        request = asked(contexts=((1,) * 40,), completions=((1, 2),) * 6, context_of=np.zeros(6, dtype=np.int32))
        before = there.score(request)
        there.hosts.forget()

        def watch(host: str, path: str) -> None:
            if len(there.hosts.scored()) == 2:
                for backend in backends.values():
                    backend.load(1)

        there.hosts.watch = watch
        scores = there.score(request)
        assert (before.stamp.weights_version, scores.stamp.weights_version) == (0, 1)
        whole = Versioned(1).score(request, lambda: None)
        np.testing.assert_array_equal(scores.logprob_T, whole.logprob_T)


def test_an_only_endpoint_that_lost_its_weights_in_the_middle_of_a_request_is_asked_again_from_the_start(
    tmp_path: Path,
) -> None:
    """Its stamp says so; the request is of one version all the same."""
    backend = Versioned(3)
    with house(tmp_path, {"a": backend}, settings={"teacher_max_batch_tokens": 64}) as there:
        request = asked(contexts=((1,) * 40,), completions=((1, 2),) * 6, context_of=np.zeros(6, dtype=np.int32))
        there.hosts.watch = lambda host, path: len(there.hosts.scored()) == 2 and backend.load(0)
        scores = there.score(request)
        assert scores.stamp.weights_version == 0
        np.testing.assert_array_equal(scores.logprob_T, Versioned(0).score(request, lambda: None).logprob_T)


def stranger() -> TableBackend:
    backend = table()
    backend.about = replace(backend.about, model="another")
    return backend


def test_what_is_not_the_teacher_that_was_registered_is_refused_by_name_and_counted(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": stranger()}) as there:
        for context in range(12):
            there.score(about(context))
        assert set(there.hosts.scored()) == {"a"}
        assert there.ledger().refused == 1


class CutOff(httpx.BaseTransport):
    """Breaks off in the middle of every head."""

    def __init__(self, through: httpx.BaseTransport) -> None:
        self._through = through

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._through.handle_request(request)
        if request.url.path != "/v1/head":
            return answer

        def half() -> Iterator[bytes]:
            yield answer.read()[:500]
            raise httpx.ReadError("cut off")

        return httpx.Response(answer.status_code, headers=answer.headers, content=half())


def test_a_head_that_one_endpoint_breaks_off_comes_whole_from_another(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        there.hosts.teachers["a"] = CutOff(there.hosts.teachers["a"])
        there.hosts.away.add("b")
        there.clock.meanwhile = there.hosts.away.clear
        head = there.pool.head("expert")
        np.testing.assert_array_equal(head.weight_VD, np.eye(V, dtype=np.float32))
        assert [host for host, path in there.hosts.requests if path == "/v1/head"].count("b") == 1


def test_what_is_no_teacher_at_all_is_left_out(tmp_path: Path) -> None:
    """A proxy's page, say, at an address where a teacher was."""
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        there.hosts.teachers["b"] = httpx.MockTransport(lambda request: httpx.Response(200, text="<h1>Welcome</h1>"))
        for context in range(12):
            there.score(about(context))
        assert set(there.hosts.scored()) == {"a"} and there.ledger().refused == 1
        there.hosts.teachers["a"] = there.hosts.teachers["b"]
        there.hosts.away.add("a")
        there.clock.meanwhile = there.hosts.away.clear
        with pytest.raises(TeacherRefused, match="is not a teacher's card"):
            there.score()


def test_when_what_came_back_is_another_teacher_the_run_hears_of_it(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": stranger()}) as there:
        there.score()
        there.hosts.away.add("a")
        there.clock.meanwhile = lambda: (
            there.hosts.away.clear() or there.hosts.teachers.update(a=there.hosts.teachers["b"])
        )
        with pytest.raises(TeacherRefused, match="No endpoint of teacher 'math' can be used") as caught:
            there.score()
        for name in ("http://a", "http://b"):
            assert f"Teacher 'math' at {name} now runs the model 'another'" in str(caught.value)


def test_parts_of_a_large_request_go_to_endpoints_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    class Together(TableBackend):
        """Answers when another is asked at the same time, and not before."""

        def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
            both.wait()
            return super().score(request, between)

    def together() -> TableBackend:
        return Together(hashed(V), V, max_tokens=64)

    request = asked(contexts=((1,) * 40,), completions=((1, 2), (3, 4)), context_of=np.zeros(2, dtype=np.int32))
    with house(tmp_path, {"a": together(), "b": together()}, settings={"teacher_max_batch_tokens": 64}) as there:
        scores = there.score(request)
        assert sorted(there.hosts.scored()) == ["a", "b"]
    np.testing.assert_array_equal(scores.logprob_T, table().score(request, lambda: None).logprob_T)


def test_many_at_once_while_an_endpoint_dies_lose_nothing(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}) as there:
        expected = [there.score(about(context)) for context in range(40)]
        there.ledger()
        going = threading.Event()

        def one(context: int) -> Scores:
            if context == 20:
                there.hosts.away.add("a")
                going.set()
            return there.score(about(context))

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(one, range(40)))
        ledger = there.ledger()
        assert going.is_set() and all(map(same, answers, expected))
        assert ledger.sequences == 40 * 3 and ledger.requests == sum(ledger.endpoints.values())


def test_an_endpoint_that_joins_is_asked_and_one_that_leaves_is_not(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table(), "c": table()}, spare=("c",)) as there:
        changes = there.pool.update({"expert": [address("b"), address("c")]})["expert"]
        assert (changes.joined, changes.left, changes.refused) == (("http://c",), ("http://a",), ())
        for context in range(12):
            there.score(about(context))
        assert set(there.hosts.scored()) == {"b", "c"}
        ledger = there.pool.take_ledger()["expert"]
        assert (ledger.joined, ledger.left) == (["http://c"], ["http://a"]), "told with the step in which it was"
        assert not there.pool.update({"expert": [address("c"), address("b")]}), "nothing changed"
        again = there.pool.take_ledger()["expert"]
        assert not again.joined and not again.left
        assert not there.pool.update({"expert": []}), "somebody who may be back is better than nobody"
        assert there.score(about(1))


def test_an_endpoint_whose_key_is_not_here_does_not_join_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house(tmp_path, {"a": table(), "b": table()}, spare=("b",)) as there:
        unknown = address("b").model_copy(update={"key_env": "NOT_SET_HERE"})
        changes = there.pool.update({"expert": [address("a"), unknown]})["expert"]
        assert not changes.joined and "NOT_SET_HERE, which is not set here" in changes.refused[0]
        assert there.score()


def test_a_request_that_is_with_an_endpoint_that_leaves_finishes_there(tmp_path: Path) -> None:
    slow = Slow()
    with house(tmp_path, {"a": slow, "b": table()}, spare=("b",)) as there, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(there.score)
        assert slow.started.wait(30)
        there.pool.update({"expert": [address("b")]})
        slow.go_on.set()
        assert same(answer.result(30), there.score())
        assert there.hosts.scored() == ["a", "b"]


def test_a_request_that_fails_at_an_endpoint_that_leaves_moves(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}, spare=("b",)) as there:

        def watch(host: str, path: str) -> None:
            if (host, path) == ("a", "/v1/score"):
                there.pool.update({"expert": [address("b")]})
                there.hosts.away.add("a")

        there.hosts.watch = watch
        assert there.score()
        assert there.hosts.scored() == ["a", "b"] and there.ledger().failovers == 1 and not there.clock.slept


@pytest.mark.parametrize("support", list(Support))
def test_with_one_endpoint_and_no_failure_nothing_is_sent_that_was_not_sent_before(
    tmp_path: Path, support: Support
) -> None:
    """One card, one request, no version pinned, no second connection, no pause."""
    candidates = np.tile(np.arange(3, dtype=np.int32), (3, 1)) if support is Support.IDS else None
    with house(tmp_path, {"a": table()}) as there:
        for _ in range(30):
            there.score(asked(support=support, candidate_ids=candidates))
        assert there.hosts.requests == [("a", "/v1/card")] + [("a", "/v1/score")] * 30
        ledger = there.ledger()
        assert (ledger.retries, ledger.hedges, ledger.waited_seconds, ledger.refused) == (0, 0, 0, 0)
