"""Several teachers in this process, by host name, and a pool that takes them for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from preceptor.pool import TeacherPool
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint, TeacherLedger
from preceptor.wire.score import ScoreRequest, Scores
from preceptor_services.teacher.backends import Backend
from tests.clock import Clock
from tests.contract.teaching import asked, teaching

KEY_ENV = "REPLICA_KEY"


class Hosts(httpx.BaseTransport):
    """Teachers by host name, as a network has them: some are away, some say something of their own."""

    def __init__(self, teachers: dict[str, httpx.BaseTransport]) -> None:
        self.teachers = teachers
        self.away = set[str]()
        self.say: dict[str, Callable[[], httpx.Response]] = {}
        self.watch: Callable[[str, str], object] = lambda host, path: None
        """Told of every request before it goes anywhere."""
        self.answered = threading.Event()
        """Set whenever a teacher has answered."""
        self.requests: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.requests.append((host, request.url.path))
        self.watch(host, request.url.path)
        if host in self.away:
            raise httpx.ConnectError("refused", request=request)
        if host in self.say and request.url.path == "/v1/score":
            return self.say[host]()
        try:
            return self.teachers[host].handle_request(request)
        finally:
            self.answered.set()

    def scored(self) -> list[str]:
        """The hosts that were asked for scores, in order."""
        return [host for host, path in self.requests if path == "/v1/score"]

    def forget(self) -> None:
        self.requests.clear()


class House:
    """Some teachers and a pool of them."""

    def __init__(self, hosts: Hosts, pool: TeacherPool, clock: Clock) -> None:
        self.hosts, self.pool, self.clock = hosts, pool, clock

    def score(self, request: ScoreRequest | None = None, **more: Any) -> Scores:
        return self.pool.score("expert", request or asked(), **more)

    def ledger(self) -> TeacherLedger:
        return self.pool.take_ledger()["expert"]


def address(host: str) -> ReplicaAddress:
    return ReplicaAddress(url=f"http://{host}", key_env=KEY_ENV)


@contextmanager
def house(
    folder: Path,
    backends: dict[str, Backend],
    *,
    fallback: str | None = None,
    spare: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[House]:
    """A teacher at every host but `fallback` and the `spare` ones, which nobody has told the pool of."""
    with ExitStack() as stack:
        names = {host: "other" if host == fallback else "math" for host in backends}
        taught = {
            host: stack.enter_context(teaching(backend, teacher_name=names[host], **settings or {}))
            for host, backend in backends.items()
        }
        hosts, clock = Hosts({host: each.bridge for host, each in taught.items()}), Clock()
        first, *rest = [host for host in backends if host != fallback and host not in spare]

        def endpoint(name: str, host: str, *further: str) -> TeacherEndpoint:
            return TeacherEndpoint(
                name=name,
                url=f"http://{host}",
                key_env=KEY_ENV,
                replicas=tuple(map(address, further)),
                card=taught[host].client.card(),
            )

        fallbacks = {} if fallback is None else {"expert": endpoint("other", fallback)}
        pool = TeacherPool(
            {"expert": endpoint("math", first, *rest)},
            folder,
            fallbacks=fallbacks,
            transport=hosts,
            clock=clock,
            sleep=clock.sleep,
            **more,
        )
        with pool:
            yield House(hosts, pool, clock)
