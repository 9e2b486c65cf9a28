"""The connection: what is tried again, what is not, and what every failure is called."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from preceptor.client import Client
from preceptor.connection import ATTEMPTS, DEFAULT_URL
from preceptor.errors import (
    Conflict,
    Invalid,
    LeaseLost,
    NotAuthorised,
    NotFound,
    Overloaded,
    PreceptorError,
    ServerFault,
    TooLarge,
    Unreachable,
)
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Finish, RunCreate, RunState

Handler = Callable[[httpx.Request], httpx.Response]


class Server:
    """Answers from a list; the last answer is repeated."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(server: Handler, waits: list[float] | None = None) -> Client:
    waited = [] if waits is None else waits
    return Client("http://p.test", "key", transport=httpx.MockTransport(server), sleep=waited.append)


def problem(status: int, **changes: object) -> httpx.Response:
    body = {"title": "T", "detail": "It is so.", "status": status, **changes}
    return httpx.Response(status, json=body)


EMPTY = httpx.Response(200, json=[])


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.ReadError("cut"), problem(503), problem(429)])
def test_a_question_is_asked_again(failure: httpx.Response | Exception):
    server, waits = Server(failure, failure, EMPTY), list[float]()
    assert client(server, waits).recipes.list() == ()
    assert len(server.requests) == 3
    assert 0 < waits[0] <= 0.2
    assert 0.2 <= waits[1] <= 0.4


def test_it_is_given_up_after_some_attempts():
    server = Server(httpx.ConnectError("refused"))
    with pytest.raises(Unreachable, match=r"No answer from http://p.test \(refused\)\. Start it"):
        client(server).recipes.list()
    assert len(server.requests) == ATTEMPTS


def test_the_other_side_says_how_long_to_wait():
    busy = httpx.Response(429, json={"title": "T", "detail": "Busy.", "status": 429}, headers={"Retry-After": "7"})
    server, waits = Server(busy, EMPTY), list[float]()
    client(server, waits).recipes.list()
    assert waits == [7.0]
    with pytest.raises(Overloaded, match="Busy") as caught:
        client(Server(busy)).recipes.list()
    assert caught.value.retry_after == 7.0


def test_nobody_is_waited_for_longer_than_a_minute():
    busy, waits = httpx.Response(503, headers={"Retry-After": "86400"}), list[float]()
    client(Server(busy, EMPTY), waits).recipes.list()
    assert waits == [60.0]


def test_what_must_not_be_done_twice_is_not_sent_twice():
    server = Server(httpx.ReadError("cut"))
    with pytest.raises(Unreachable):
        client(server).skills.create("b")
    assert len(server.requests) == 1


def test_what_was_never_sent_may_be_sent_again():
    server = Server(httpx.ConnectError("refused"), problem(409))
    with pytest.raises(Conflict):
        client(server).skills.create("b")
    assert len(server.requests) == 2


def test_starting_a_run_is_safe_to_repeat_since_it_carries_its_key():
    server = Server(httpx.ReadError("cut"), problem(422))
    wish = RunCreate(recipe="opsd", student="sha256:" + "0" * 64, data=TaskSource(task="t"))
    with pytest.raises(Invalid):
        client(server).runs.start(wish)
    first, second = (request.headers["Idempotency-Key"] for request in server.requests)
    assert first == second
    with pytest.raises(Invalid):
        client(server).runs.start(wish)
    assert server.requests[2].headers["Idempotency-Key"] != first
    assert json.loads(server.requests[0].content)["data"]["kind"] == "task"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, NotAuthorised),
        (403, NotAuthorised),
        (404, NotFound),
        (405, Invalid),
        (409, Conflict),
        (413, TooLarge),
        (416, Invalid),
        (418, Invalid),
        (422, Invalid),
        (500, ServerFault),
        (502, ServerFault),
        (503, Overloaded),
        (599, ServerFault),
    ],
)
def test_every_problem_has_a_name(status: int, kind: type[PreceptorError]):
    with pytest.raises(kind, match=r"It is so\. Do that\.") as caught:
        client(Server(problem(status, remedy="Do that.", field="f"))).recipes.list()
    assert type(caught.value) is kind
    assert caught.value.problem.field == "f"


def test_a_lost_lease_is_told_from_other_conflicts():
    lost = problem(409, type="/problems/lease-lost")
    with pytest.raises(LeaseLost):
        client(Server(lost)).runs.finish("run-1", Finish(fence=1, state=RunState.CANCELLED))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, text="<html>Internal\nServer Error</html>"),
        httpx.Response(500, json={"detail": "not a problem"}),
        httpx.Response(500, json=["not", "a", "problem"]),
        httpx.Response(500, content=b"\xff\xfe"),
        httpx.Response(500),
    ],
)
def test_an_error_that_is_no_problem_is_a_server_fault(answer: httpx.Response):
    with pytest.raises(ServerFault, match=r"p\.test answered 500") as caught:
        client(Server(answer)).recipes.list()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [httpx.Response(200, text="hello"), httpx.Response(200, json=[{"name": 1}])])
def test_an_answer_that_is_something_else_is_a_server_fault(answer: httpx.Response):
    with pytest.raises(ServerFault, match=r"GET /v1/recipes with something that is not"):
        client(Server(answer)).recipes.list()


def test_a_redirect_is_not_followed():
    server = Server(httpx.Response(307, headers={"Location": "http://evil.test/"}))
    with pytest.raises(ServerFault, match="answered 307"):
        client(server).recipes.list()
    assert [request.url.host for request in server.requests] == ["p.test"]


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    server = Server(EMPTY)
    monkeypatch.setenv("PRECEPTOR_URL", "http://from.env:1/")
    monkeypatch.setenv("PRECEPTOR_KEY", " secret\n")
    with Client(transport=httpx.MockTransport(server)) as made:
        made.recipes.list()
        assert made.url == "http://from.env:1"
    assert str(server.requests[0].url) == "http://from.env:1/v1/recipes"
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


def test_without_a_word_it_is_this_machine():
    with Client() as made:
        assert made.url == DEFAULT_URL


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "http://a\x00b"])
def test_a_url_that_is_none(url: str):
    with pytest.raises(Invalid) as caught:
        Client(url)
    assert caught.value.field == "url"


@pytest.mark.parametrize("name", ["../keys", "a/../../keys", "..", "a?state=failed", "a#b", "a%2fb", "a\\b"])
def test_no_name_leads_elsewhere(name: str) -> None:
    server = Server(httpx.Response(200, json=[]))
    with client(server) as asked:
        for ask in (asked.debates.get, asked.codistillations.stop, asked.skills.get, asked.teachers.remove):
            with pytest.raises(Invalid, match="is no name and no id"):
                ask(name)
    assert server.requests == []
