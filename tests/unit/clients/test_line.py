"""A line that another thread breaks off: the caller's read ends, and so does the server's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from preceptor.line import Line
from preceptor.replica import Replica
from preceptor.wire.runs import ReplicaAddress

SECONDS = 30
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers some requests of one connection; keeps the next one waiting, with a part of the answer if so told."""

    def __init__(self, answers: int, begun: bytes = b"") -> None:
        self._answers, self._begun = answers, begun
        self.waiting, self.hung_up = threading.Event(), threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(SECONDS)
        self._listening.close()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            connection.settimeout(SECONDS)
            for _ in range(self._answers):
                connection.recv(65536)
                connection.sendall(OK)
            connection.recv(65536)
            connection.sendall(self._begun)
            self.waiting.set()
            if connection.recv(1) == b"":
                self.hung_up.set()


@contextmanager
def on_a_line(server: Server) -> Iterator[tuple[Line, httpx.Client]]:
    line = Line()
    with httpx.Client(base_url=server.url, transport=line, timeout=SECONDS) as http:
        yield line, http


@pytest.mark.parametrize("answers", [0, 2], ids=["new connection", "used connection"])
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"], ids=["nothing", "a part"])
def test_a_request_that_is_broken_off_ends_at_both_ends(answers: int, begun: bytes) -> None:
    with Server(answers, begun) as server, on_a_line(server) as (line, http):
        for _ in range(answers):
            assert http.get("/").text == "ok"
        raised: list[httpx.TransportError] = []

        def ask() -> None:
            try:
                http.get("/")
            except httpx.TransportError as error:
                raised.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert server.waiting.wait(SECONDS)
        line.break_off()
        asking.join(SECONDS)
        assert len(raised) == 1 and server.hung_up.wait(SECONDS)


def test_a_line_that_was_broken_off_before_it_was_dialled_is_not_used() -> None:
    with Server(0) as server, on_a_line(server) as (line, http):
        line.break_off()
        with pytest.raises(httpx.TransportError):
            http.get("/")


def test_breaking_off_twice_or_when_all_is_done_does_nothing() -> None:
    with Server(1) as server, on_a_line(server) as (line, http):
        assert http.get("/").text == "ok"
        line.break_off()
        line.break_off()
        with pytest.raises(httpx.TransportError):
            http.get("/")
            http.get("/")


def test_a_client_that_is_borrowed_after_all_were_closed_is_broken_off() -> None:
    """By a thread that had chosen the endpoint before: it would wait as long as the teacher takes."""
    with Server(0) as server:

        def open_(address: ReplicaAddress, line: httpx.BaseTransport | None) -> Any:
            return httpx.Client(base_url=address.url, transport=line, timeout=SECONDS)

        replica = Replica(ReplicaAddress(url=server.url), open_)
        replica.close()
        borrowed = replica.borrow()
        http: Any = borrowed.client
        with pytest.raises(httpx.TransportError) as caught:
            http.get("/")
        assert not isinstance(caught.value, httpx.TimeoutException)
        replica.give_back(borrowed)
