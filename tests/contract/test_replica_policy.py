"""When nobody answers, a context waits, falls back or is dropped; nothing is taken for 0, and all is counted."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from preceptor.errors import Interrupted, Invalid, TeacherRefused, TeacherUnavailable
from preceptor.frames import hash_of, head_buffers
from preceptor.tensors import Tensor
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.table import TableBackend, hashed
from tests.contract.replicas import KEY_ENV, address, house
from tests.contract.teaching import KEY, V, asked, table


@pytest.fixture(autouse=True)
def _as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr("preceptor.hedge.SAMPLES", 10**9)  # a busy machine makes no second request here


@pytest.mark.parametrize("names", ["a", "ab"])
def test_waiting_goes_on_beyond_the_deadline_until_somebody_is_back(tmp_path: Path, names: str) -> None:
    with house(tmp_path, {name: table() for name in names}, deadline=10, wait=1000) as there:
        undisturbed = there.score()
        there.hosts.away.update(names)
        there.clock.meanwhile = lambda: sum(there.clock.slept) > 100 and there.hosts.away.discard("a")
        there.ledger()
        there.hosts.forget()
        scores = there.score()
        ledger = there.ledger()
        np.testing.assert_array_equal(scores.logprob_T, undisturbed.logprob_T)
        assert ledger.waited_seconds == pytest.approx(sum(there.clock.slept)) and 100 < ledger.waited_seconds < 140
        assert ("a", "/v1/card") in there.hosts.requests, "whoever is back is looked at before it is believed"
        assert max(there.clock.slept) <= 36, "what was away for long is still looked at"


def test_waiting_has_a_bound(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}, deadline=10, wait=50) as there:
        there.score()
        there.hosts.away.update("ab")
        with pytest.raises(TeacherUnavailable, match=r"'math' gave no answer in 50 s and \d+ attempts. Last: No"):
            there.score()
        assert sum(there.clock.slept) < 50


def test_waiting_ends_when_the_job_is_to_stop(tmp_path: Path) -> None:
    stop: list[bool] = []
    with house(tmp_path, {"a": table()}, stopping=lambda: bool(stop)) as there:
        stop.append(True)
        assert there.score(), "whoever answers is heard out"
        there.hosts.away.add("a")
        stop.clear()
        there.clock.meanwhile = lambda: len(there.clock.slept) == 5 and stop.append(True)
        with pytest.raises(Interrupted, match="'math' was broken off"):
            there.score()
        assert len(there.clock.slept) == 5


def other() -> TableBackend:
    return table(seed=1)


def test_a_fallback_answers_under_its_own_name_after_the_deadline_and_then_at_once(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table(), "f": other()}, fallback="f", deadline=20) as there:
        undisturbed = there.score(on_failure="fallback")
        there.hosts.away.update("ab")
        there.ledger()
        scores = there.score(on_failure="fallback")
        assert scores.stamp.teacher == "other" and 10 < sum(there.clock.slept) < 20
        np.testing.assert_array_equal(scores.logprob_T, other().score(asked(), lambda: None).logprob_T)
        there.clock.slept.clear()
        assert there.score(on_failure="fallback").stamp.teacher == "other"
        assert not there.clock.slept, "it is known that nobody answers"
        ledger = there.ledger()
        assert ledger.fallbacks == 2 and ledger.endpoints["http://f"] == 2 and ledger.dropped == 0

        there.hosts.away.clear()
        there.clock.now += 60
        back = there.score(on_failure="fallback")
        assert back.stamp.teacher == "math" and there.ledger().fallbacks == 0
        np.testing.assert_array_equal(back.logprob_T, undisturbed.logprob_T)


def test_the_head_of_whoever_answered_is_to_be_had(tmp_path: Path) -> None:
    turned = other()
    turned._head = head_buffers(Tensor.of(-np.eye(V, dtype=np.float32)))
    assert turned.about.head is not None
    card = turned.about.head.model_copy(update={"hash": hash_of(turned._head)})
    turned.about = replace(turned.about, head=card)
    with house(tmp_path, {"a": table(), "f": turned}, fallback="f", deadline=5) as there:
        first = there.score(asked(support=Support.FULL), on_failure="fallback")
        there.hosts.away.add("a")
        second = there.score(asked(support=Support.FULL), on_failure="fallback")
        assert second.stamp.head_hash is not None and second.stamp.head_hash != first.stamp.head_hash
        np.testing.assert_array_equal(there.pool.head("expert", second.stamp.head_hash).weight_VD, -np.eye(V))
        there.hosts.away.clear()
        np.testing.assert_array_equal(there.pool.head("expert", first.stamp.head_hash).weight_VD, np.eye(V))


def test_without_a_fallback_a_context_that_falls_back_says_so(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table()}, deadline=5) as there:
        there.hosts.away.add("a")
        with pytest.raises(TeacherUnavailable, match="the run names no fallback for it"):
            there.score(on_failure="fallback")


def test_a_fallback_reads_the_same_tokens(tmp_path: Path) -> None:
    foreign = TableBackend(hashed(V + 1), V + 1)
    with (
        pytest.raises(Invalid, match=r"fallbacks\.expert: teacher 'other' has another tokenizer than 'math'"),
        house(tmp_path, {"a": table(), "f": foreign}, fallback="f"),
    ):
        pass


def test_what_is_dropped_is_counted_and_never_zero(tmp_path: Path) -> None:
    with house(tmp_path, {"a": table(), "b": table()}, deadline=5) as there:
        there.score()
        there.hosts.away.update("ab")
        there.ledger()
        for _ in range(2):
            with pytest.raises(TeacherUnavailable, match="Teacher 'math' gave no answer"):
                there.score(on_failure="drop")
        assert there.ledger().dropped == 2 * len(asked().completions)
        there.hosts.away.clear()
        there.clock.now += 60
        assert there.score(on_failure="drop") and there.ledger().dropped == 0


def test_a_teacher_that_is_away_when_a_job_begins_is_known_by_its_registration(tmp_path: Path) -> None:
    """How long it is waited for is each context's to say, also before the first answer."""
    with house(tmp_path, {"a": table(), "b": table()}, deadline=5) as there:
        there.hosts.away.update("ab")
        assert there.pool.card("expert").limits.max_tokens == 4096 and not there.clock.slept
        with pytest.raises(TeacherUnavailable):
            there.score(on_failure="drop")
        assert there.clock.slept, "one failure is not yet known to be one that lasts"
        there.hosts.away.clear()
        there.clock.now += 60
        assert there.score(on_failure="drop") and ("a", "/v1/card") in there.hosts.requests


@pytest.mark.parametrize("policy", ["wait", "fallback", "drop"])
def test_no_policy_hides_a_request_that_does_not_suit(tmp_path: Path, policy: str) -> None:
    """Over-long input is refused before it is sent, whatever is to happen when nobody answers."""
    with house(tmp_path, {"a": table(max_tokens=64), "f": other()}, fallback="f") as there:
        with pytest.raises(TeacherRefused, match="this teacher reads 64"):
            there.pool.score("expert", asked(contexts=((1,) * 64,)), on_failure=policy)  # pyright: ignore
        assert not there.hosts.scored() and there.ledger().dropped == 0


def test_a_pool_that_is_closed_asks_nobody_any_more(tmp_path: Path) -> None:
    """Whoever still waits in another thread is let go."""
    with house(tmp_path, {"a": table()}) as there:
        there.score()
        there.hosts.away.add("a")
        there.clock.meanwhile = there.pool.close
        with pytest.raises(Interrupted, match="the job has ended"):
            there.score()
        assert len(there.clock.slept) == 1


FAILURES: list[Callable[[], httpx.Response]] = [
    lambda: httpx.Response(502),
    lambda: httpx.Response(503),
    lambda: httpx.Response(504),
    lambda: httpx.Response(429, headers={"Retry-After": "2"}),
]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_fails_no_number_changes_and_every_request_is_counted(tmp_path: Path, seed: int) -> None:
    """Endpoints go away, come back, are full and join or leave at random, while four threads ask large requests."""
    rng, names = random.Random(seed), "abc"
    with house(
        tmp_path, {name: table(max_tokens=64) for name in names}, settings={"teacher_max_batch_tokens": 64}
    ) as there:
        requests = [
            asked(
                contexts=((n % V, n // V, *range(12)),), completions=((1, 2, 3),) * 6, context_of=np.zeros(6, np.int32)
            )
            for n in range(60)
        ]
        turn = threading.Lock()

        def watch(host: str, path: str) -> None:
            with turn:
                other = rng.choice(names)
                if rng.random() < 0.2:
                    (there.hosts.away.discard if other in there.hosts.away else there.hosts.away.add)(other)
                if rng.random() < 0.2:
                    there.hosts.say.update({other: rng.choice(FAILURES)})
                if rng.random() < 0.3:
                    there.hosts.say.clear()
                if rng.random() < 0.1:
                    there.pool.update({"expert": [address(name) for name in rng.sample(names, rng.randint(1, 3))]})

        def come_back() -> None:
            there.hosts.away.clear()
            there.hosts.answered.clear()
            there.hosts.answered.wait(0.1)  # the clock is ours and the teachers' time is not: let another thread get on

        there.hosts.watch, there.clock.meanwhile = watch, come_back
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(there.score, requests))
        for request, scores in zip(requests, answers, strict=True):
            whole = table().score(request, lambda: None)
            np.testing.assert_array_equal(scores.logprob_T, whole.logprob_T)
            np.testing.assert_array_equal(scores.offsets, whole.offsets)
        ledger = there.ledger()
        assert ledger.sequences == 6 * len(requests) and ledger.tokens == 18 * len(requests)
        assert ledger.requests == sum(ledger.endpoints.values()) == len(there.hosts.scored())
        assert ledger.retries > 0 and ledger.failovers > 0 and ledger.dropped == 0
