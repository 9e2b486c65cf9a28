"""What takes unusually long is asked of a second endpoint; the first answer counts, and nobody's number changes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from pydantic import SecretStr

from preceptor.endpoint import TeacherClient
from preceptor.errors import TeacherUnavailable
from preceptor.hedge import SAMPLES
from preceptor.pool import TeacherPool
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.score import Numbers, ScoreRequest, Scores
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends.table import TableBackend, hashed
from preceptor_services.teacher.settings import TeacherSettings
from tests.contract.replicas import KEY_ENV, House, house
from tests.contract.teaching import KEY, V, asked

SECONDS = 60


class Holding(TableBackend):
    """A table that answers at once until it is told to hold; then when it is told to go on, or its caller has gone."""

    def __init__(self) -> None:
        super().__init__(hashed(V), V)
        self.hold = False
        self.go_on, self.held, self.ended = threading.Event(), threading.Event(), threading.Event()

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        if not self.hold:
            return super().score(request, between)
        self.held.set()
        try:
            while not self.go_on.wait(0.01):
                between()
            return super().score(request, between)
        finally:
            self.ended.set()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)


@pytest.fixture
def backends() -> dict[str, Holding]:
    return {"a": Holding(), "b": Holding()}


def warm(there: House) -> tuple[Scores, str, str]:
    """Enough answers to know what is usual: one of them, the endpoint that gave them, and the other one."""
    scores = [there.score() for _ in range(SAMPLES)][-1]
    home = there.hosts.scored()[0]
    there.hosts.forget()
    there.ledger()
    return scores, home, "b" if home == "a" else "a"


def test_the_second_endpoint_wins_where_the_first_takes_too_long(tmp_path: Path, backends: dict[str, Holding]) -> None:
    with house(tmp_path, {**backends}) as there:
        usual, slow, fast = warm(there)
        backends[slow].hold = True
        scores = there.score()
        ledger = there.ledger()
        assert there.hosts.scored() == [slow, fast]
        assert (ledger.requests, ledger.hedges, ledger.hedges_won) == (2, 1, 1)
        assert (ledger.retries, ledger.failovers, ledger.sequences) == (0, 0, 3), "a hedge is no failure"
        np.testing.assert_array_equal(scores.logprob_T, usual.logprob_T)
        backends[slow].go_on.set()


def test_the_first_endpoint_may_still_win(tmp_path: Path, backends: dict[str, Holding]) -> None:
    with house(tmp_path, {**backends}) as there, ThreadPoolExecutor(1) as threads:
        usual, first, second = warm(there)
        for backend in backends.values():
            backend.hold = True
        scores = threads.submit(there.score)
        assert backends[first].held.wait(SECONDS) and backends[second].held.wait(SECONDS)
        backends[first].go_on.set()
        np.testing.assert_array_equal(scores.result(SECONDS).logprob_T, usual.logprob_T)
        ledger = there.ledger()
        assert (ledger.hedges, ledger.hedges_won) == (1, 0)
        backends[second].go_on.set()


def test_a_failure_of_one_is_none_while_the_other_is_asked(tmp_path: Path, backends: dict[str, Holding]) -> None:
    with house(tmp_path, {**backends}) as there:
        usual, slow, fast = warm(there)
        backends[slow].hold = True
        there.hosts.say[fast] = lambda: backends[slow].go_on.set() or httpx.Response(502)
        np.testing.assert_array_equal(there.score().logprob_T, usual.logprob_T)
        ledger = there.ledger()
        assert (ledger.hedges, ledger.hedges_won, ledger.retries) == (1, 0, 0)


def test_when_both_fail_the_request_is_tried_again(tmp_path: Path, backends: dict[str, Holding]) -> None:
    with house(tmp_path, {**backends}, deadline=5) as there:
        usual, slow, fast = warm(there)
        failed = threading.Event()

        def fail() -> httpx.Response:
            failed.set()
            return httpx.Response(502)

        def fail_later() -> httpx.Response:
            assert failed.wait(SECONDS)
            return httpx.Response(502)

        there.hosts.say = {slow: fail_later, fast: fail}
        there.clock.meanwhile = there.hosts.say.clear
        np.testing.assert_array_equal(there.score().logprob_T, usual.logprob_T)
        assert there.ledger().hedges >= 1
        there.clock.meanwhile = lambda: None
        there.hosts.say = dict.fromkeys("ab", lambda: httpx.Response(502))
        with pytest.raises(TeacherUnavailable):
            there.score(on_failure="drop")


def test_one_endpoint_is_never_hedged(tmp_path: Path, backends: dict[str, Holding]) -> None:
    with house(tmp_path, {"a": backends["a"]}) as there, ThreadPoolExecutor(1) as threads:
        for _ in range(SAMPLES):
            there.score()
        backends["a"].hold = True
        scores = threads.submit(there.score)
        assert backends["a"].held.wait(SECONDS)
        backends["a"].go_on.set()
        assert scores.result(SECONDS) and there.ledger().hedges == 0


def test_a_larger_request_is_given_more_time(tmp_path: Path, backends: dict[str, Holding]) -> None:
    with house(tmp_path, {**backends}) as there:
        warm(there)
        latencies = there.pool._roles.of("expert").replicas.latencies
        usual = latencies.unusual_after(asked().tokens)
        larger = latencies.unusual_after(1000 * asked().tokens)
        assert usual is not None and larger is not None and larger > 10 * usual


@contextmanager
def served(backend: TableBackend, **settings: Any) -> Iterator[str]:
    """A teacher on a real socket: its URL."""
    app = create_teacher_app(backend, TeacherSettings(teacher_key=SecretStr(KEY), **settings))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def test_the_slow_endpoint_is_hung_up_on_and_its_work_is_freed(tmp_path: Path, backends: dict[str, Holding]) -> None:
    """Over real sockets: what nobody waits for any more is given up, by us and by the teacher."""
    with served(backends["a"]) as a, served(backends["b"]) as b:
        with TeacherClient(a, KEY) as client:
            card = client.card()
        by_url = {a: backends["a"], b: backends["b"]}
        replica = ReplicaAddress(url=b, key_env=KEY_ENV)
        endpoint = TeacherEndpoint(name="math", url=a, key_env=KEY_ENV, replicas=(replica,), card=card)
        with TeacherPool({"expert": endpoint}, tmp_path) as pool:
            usual = [pool.score("expert", asked()) for _ in range(SAMPLES)][-1]
            (home,) = {url for url, count in pool.take_ledger()["expert"].endpoints.items() if count >= SAMPLES}
            slow = by_url[home]
            slow.hold = True
            scores = pool.score("expert", asked())
            assert slow.held.is_set() and slow.ended.wait(SECONDS) and not slow.go_on.is_set()
            np.testing.assert_array_equal(scores.logprob_T, usual.logprob_T)
            slow.hold = False
            assert pool.take_ledger()["expert"].hedges_won == 1
            assert pool.score("expert", asked()), "the endpoint that was hung up on is asked again"
