"""A teacher in this process, behind the SDK; and backends that do what real ones do when things go wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
from pydantic import SecretStr
from starlette.requests import ClientDisconnect

from preceptor.endpoint import TeacherClient
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.backends.table import TableBackend, hashed
from preceptor_services.teacher.settings import TeacherSettings
from tests.bridge import Bridge

KEY = "pk-teacher-for-tests-0123456789"
URL = "http://teacher.test"
V = 16


@dataclass(frozen=True)
class Teaching:
    """A teacher that answers."""

    app: Any
    bridge: Bridge
    client: TeacherClient
    http: httpx.Client
    """Plain HTTP with the key, for what the SDK would not send."""


@contextmanager
def teaching(backend: Backend, **settings: Any) -> Iterator[Teaching]:
    """Serve a backend in this process. A bug in the application fails the test."""
    app = create_teacher_app(backend, TeacherSettings(teacher_key=SecretStr(KEY), **settings))
    headers = {"Authorization": f"Bearer {KEY}"}
    with Bridge(app) as bridge:
        # Not entered: httpx would enter the transport that they share.
        http = httpx.Client(base_url=URL, transport=bridge, headers=headers)
        yield Teaching(app, bridge, TeacherClient(URL, KEY, transport=bridge), http)
    faults = [fault for fault in bridge.faults if not isinstance(fault, ClientDisconnect)]  # a test hung up
    assert not faults, faults


def table(seed: int = 0, **more: Any) -> TableBackend:
    """A table with a row for every prefix."""
    return TableBackend(hashed(V, seed), V, **more)


class Spoilt(TableBackend):
    """A table whose numbers are changed on the way out."""

    def __init__(self, change: Callable[[Numbers, ScoreRequest], Numbers]) -> None:
        super().__init__(hashed(V), V)
        self._change = change

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        return self._change(super().score(request, between), request)


class Slow(TableBackend):
    """A table that waits, in the middle of a score, until it may go on."""

    def __init__(self) -> None:
        super().__init__(hashed(V), V)
        self.started, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        self.started.set()
        try:
            while not self.go_on.wait(0.01):
                between()
            return super().score(request, between)
        finally:
            self.ended.set()


def asked(
    contexts: Sequence[Sequence[int]] = ((1, 2, 3),),
    completions: Sequence[Sequence[int]] = ((4, 5), (), (6,)),
    support: Support = Support.SAMPLED,
    **more: Any,
) -> ScoreRequest:
    """A request, all completions behind the first context unless said otherwise."""
    fields: dict[str, Any] = {
        "contexts": [np.array(ids, dtype=np.int32) for ids in contexts],
        "completions": [np.array(ids, dtype=np.int32) for ids in completions],
        "context_of": np.zeros(len(completions), dtype=np.int32),
        "support": support,
        "k": 3 if support is Support.TOPK else 0,
        **more,
    }
    return ScoreRequest(**fields)


def spoil(numbers: Numbers, **arrays: Any) -> Numbers:
    """Numbers with some of their arrays replaced."""
    return replace(numbers, **arrays)
