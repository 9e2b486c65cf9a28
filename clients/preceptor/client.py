"""The control plane, from Python.

    with Client() as preceptor:
        student = preceptor.artifacts.push("models/spelling", kind="model", name="spelling")
        run = preceptor.runs.start(RunCreate(recipe="opsd", student=student, ...))
        for event in preceptor.runs.events(run.id):
            print(event.kind, event.data)

Synchronous and safe to share between threads. Failures are the errors of `preceptor.errors`, drawn there as a tree.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from preceptor.closing import Closing
from preceptor.connection import TIMEOUT, Connection
from preceptor.resources.artifacts import Artifacts
from preceptor.resources.codistillations import Codistillations
from preceptor.resources.debates import Debates
from preceptor.resources.keys import Keys
from preceptor.resources.recipes import Recipes
from preceptor.resources.runs import Runs
from preceptor.resources.skills import Skills
from preceptor.resources.teachers import Teachers


class Client(Closing):
    """A control plane, by noun: `runs`, `teachers`, `recipes`, `artifacts`, `skills`, `debates`, `codistillations`,
    `keys`."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: httpx.Timeout | float = TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`url` and `key` default to PRECEPTOR_URL and PRECEPTOR_KEY.

        `transport` is httpx's seam: an application in this process, a recording, a proxy. `sleep` waits between
        attempts.
        """
        self._connection = Connection(url, key, transport=transport, timeout=timeout, sleep=sleep)
        self.runs = Runs(self._connection)
        self.teachers = Teachers(self._connection)
        self.recipes = Recipes(self._connection)
        self.artifacts = Artifacts(self._connection)
        self.skills = Skills(self._connection)
        self.codistillations = Codistillations(self._connection)
        self.debates = Debates(self._connection)
        self.keys = Keys(self._connection)

    @property
    def url(self) -> str:
        """Where the control plane answers."""
        return self._connection.url

    def healthy(self) -> bool:
        """Whether the control plane answers and can reach its database."""
        self._connection.send("GET", "/readyz")
        return True

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
