"""What surrounds the scores: the key, health, the queue, limits, metrics, callers that go away, hostile bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.endpoint import TeacherClient
from preceptor.errors import Invalid, NotAuthorised, Overloaded, TooLarge
from preceptor.frames import encode_request
from preceptor_services.teacher.serve import listen
from tests.bridge import Exchange
from tests.contract.teaching import KEY, URL, Slow, Teaching, asked, table, teaching

FRAME = {"Content-Type": "application/x-safetensors"}


@pytest.fixture(scope="module")
def taught() -> Iterator[Teaching]:
    with teaching(table(), teacher_max_body_bytes=20_000) as taught:
        yield taught


@pytest.mark.parametrize(
    "path", ["/v1/card", "/v1/head", "/v1/models", "/metrics", "/openapi.json", "/docs", "/nowhere"]
)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer ", f"Basic {KEY}", "Bearer \xff"])
def test_nothing_but_health_is_open(taught: Teaching, path: str, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode("latin-1"))]
    answer = httpx.Client(base_url=URL, transport=taught.bridge).get(path, headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json" and answer.json()["remedy"]


def test_health_needs_no_key(taught: Teaching) -> None:
    http = httpx.Client(base_url=URL, transport=taught.bridge)
    assert http.get("/healthz").text == "ok" and http.get("/readyz").text == "ready"


def test_the_sdk_says_whose_key_is_wrong(taught: Teaching) -> None:
    with TeacherClient(URL, "wrong", transport=taught.bridge) as client, pytest.raises(NotAuthorised):
        client.card()


def test_a_teacher_that_broke_down_says_so_and_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise KeyError("whose turn?")

    with teaching(table()) as taught, ThreadPoolExecutor() as threads:
        listening = threads.submit(listen, taught.app, "127.0.0.1", 0)
        monkeypatch.setattr(taught.app.state.service.scheduler._turns, "take", broken)
        with pytest.raises(Overloaded, match="broke down: KeyError"):
            taught.client.score(asked())
        for path in ("/healthz", "/readyz"):
            answer = taught.http.get(path)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/broken-down")
        ended = listening.exception(30)
        assert isinstance(ended, SystemExit) and ended.code == 1, "or nothing would start it anew"


def test_health_answers_while_a_score_runs() -> None:
    slow = Slow()
    with teaching(slow) as taught, ThreadPoolExecutor() as threads:
        scoring = threads.submit(taught.client.score, asked())
        assert slow.started.wait(10)
        assert taught.client.healthz() and taught.client.card()
        assert not scoring.done()
        slow.go_on.set()
        assert scoring.result(10).logprob_T.shape == (3,)


def test_a_full_queue_says_when_to_come_back() -> None:
    slow = Slow()
    with teaching(slow, teacher_max_queue=2) as taught, ThreadPoolExecutor() as threads:
        scorings = [threads.submit(taught.client.score, asked())]
        assert slow.started.wait(10)
        scorings.append(threads.submit(taught.client.score, asked()))
        scheduler = taught.app.state.service.scheduler
        while scheduler.depth < 2:
            threading.Event().wait(0.005)
        with pytest.raises(Overloaded) as caught:
            taught.client.score(asked())
        assert caught.value.problem.status == 429 and caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        slow.go_on.set()
        assert [scoring.result(10).logprob_T.shape for scoring in scorings] == [(3,), (3,)]
        assert scheduler.depth == 0


def test_a_caller_that_goes_away_frees_its_work() -> None:
    slow = Slow()
    with teaching(slow) as taught, ThreadPoolExecutor() as threads:
        request = taught.http.build_request("POST", "/v1/score", content=encode_request(asked()), headers=FRAME)
        exchange = Exchange(request, taught.bridge._loop)
        asking = threads.submit(taught.bridge.call, exchange.run(taught.app, taught.bridge.faults))
        assert slow.started.wait(10)
        exchange.close()
        assert slow.ended.wait(10)
        asking.result(10)


def test_a_deadline_ends_the_work() -> None:
    slow = Slow()
    with teaching(slow) as taught:
        with pytest.raises(Overloaded, match="deadline"):
            taught.client.score(asked(deadline_ms=50))
        assert slow.ended.wait(10)


def test_draining_finishes_what_was_taken() -> None:
    slow = Slow()
    with teaching(slow) as taught, ThreadPoolExecutor() as threads:
        scheduler = taught.app.state.service.scheduler
        scoring = threads.submit(taught.client.score, asked())
        assert slow.started.wait(10)
        closing = threads.submit(scheduler.close)
        while not scheduler.draining:
            threading.Event().wait(0.005)
        assert taught.http.get("/readyz").status_code == 503
        with pytest.raises(Overloaded, match="draining"):
            taught.client.score(asked())
        slow.go_on.set()
        assert scoring.result(10).logprob_T.shape == (3,)
        closing.result(10)


def test_a_body_beyond_the_limit_is_refused(taught: Teaching) -> None:
    with pytest.raises(TooLarge, match="20000 bytes"):
        taught.client.score(asked(contexts=((1,) * 6000,)))

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 1000

    answer = taught.http.post("/v1/score", content=chunks(), headers=FRAME)
    assert answer.status_code == 413


def test_metrics_count(taught: Teaching) -> None:
    taught.client.score(asked())
    text = taught.http.get("/metrics").text
    assert "preceptor_teacher_sequences_total" in text and "preceptor_teacher_computed_seconds_bucket" in text
    assert 'preceptor_teacher_requests_total{endpoint="/v1/score",status="200"}' in text
    assert KEY not in text


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/v1/score", {"Content-Type": "text/plain"}, b"hello", 415),
        ("POST", "/v1/score", {}, b"hello", 415),
        ("POST", "/v1/score", FRAME, b"", 400),
        ("POST", "/v1/score", FRAME, b"\xff" * 100, 400),
        ("POST", "/v1/score", {"Content-Type": "application/json"}, b"{", 400),
        ("POST", "/v1/score", {"Content-Type": "application/json"}, b"[" * 15_000, 400),
        ("POST", "/v1/score", {"Content-Type": "application/json"}, b'{"request": "\xff"}', 400),
        ("GET", "/v1/score", {}, b"", 405),
        ("DELETE", "/v1/card", {}, b"", 405),
        ("GET", "/v1/nothing", {}, b"", 404),
        ("GET", "/v1/head/..", {}, b"", 404),
        ("POST", "/v1/completions", {"Content-Type": "application/json"}, b"{", 422),
        ("POST", "/v1/completions", {"Content-Type": "application/json"}, b"{}", 422),
        ("POST", "/v1/completions", {}, b'{"model": "teacher", "prompt": "a"}', 422),
    ],
)
def test_hostile_requests_end_in_a_sentence(
    taught: Teaching, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = taught.http.request(method, path, headers=headers, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].endswith(".")


@given(st.data())
def test_damaged_frames_never_break_the_service(taught: Teaching, data: st.DataObject) -> None:
    frame = bytearray(encode_request(asked()))
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    answer = taught.http.post("/v1/score", content=bytes(frame[: data.draw(st.integers(0, len(frame)))]), headers=FRAME)
    assert answer.status_code == 200 or (400 <= answer.status_code < 500 and answer.json()["detail"])


def test_a_request_that_fails_does_not_end_the_service(taught: Teaching) -> None:
    with pytest.raises(Invalid):
        taught.client.score(asked(completions=((1000,),)))
    assert np.isfinite(taught.client.score(asked()).logprob_T).all()
