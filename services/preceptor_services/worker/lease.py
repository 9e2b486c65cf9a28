"""The right to advance one run, or to hold one debate, kept alive by a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from preceptor.client import Client
from preceptor.errors import Conflict, LeaseLost, Overloaded, PreceptorError, ServerFault, Unreachable
from preceptor.wire.runs import LeaseGrant, LeaseStatus, ReplicaAddress, TeacherEndpoint

BEATS_PER_TTL = 4
JOIN_SECONDS = 5
"""How long the end of a run waits for a heartbeat in flight; one that comes later is refused, and harmless."""
PASSING = (Unreachable, Overloaded, ServerFault)
"""What may be over in a moment: the control plane restarts, a proxy hiccups."""

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_Changes = TypeVar("_Changes")

Endpoints = Mapping[str, Sequence[ReplicaAddress]]
"""The endpoints that are now in use, by role."""
Refilled = Mapping[str, TeacherEndpoint | None]
"""Whom to ask, by role; None: nobody."""


class Lease:
    """Heartbeats while it is open. Once `lost` is set nothing may be reported any more."""

    def __init__(self, what: str, fence: int, ttl_seconds: float, beat: Callable[[], LeaseStatus]) -> None:
        """`what` it is a lease on, as logs and errors call it; `beat` sends a heartbeat."""
        self._what = what
        self.fence = fence
        self._ttl_seconds = ttl_seconds
        self._send_beat = beat
        self._good_until = time.monotonic() + ttl_seconds
        self._closing = threading.Event()
        self.lost = threading.Event()
        self.cancel = False
        self.pause = False
        self.refilled: Refilled = {}
        """Whom to ask in roles that were refilled since it was taken; None: nobody."""
        self._endpoints: Endpoints | None = None
        self._follow: Callable[[Endpoints], Callable[[], None]] | None = None
        self._following = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name=f"lease on {what}", daemon=True)

    @classmethod
    def on_run(cls, client: Client, grant: LeaseGrant) -> Lease:
        """A run's."""
        run_id, fence = grant.run.id, grant.fence
        return cls(f"run {run_id}", fence, grant.ttl_seconds, lambda: client.runs.heartbeat(run_id, fence))

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(timeout=JOIN_SECONDS)

    def check(self) -> None:
        """Raises LeaseLost when it is no longer ours."""
        if self.lost.is_set():
            raise LeaseLost(f"The lease on {self._what} (fence {self.fence}) has ended.")

    def heard(self, status: LeaseStatus) -> None:
        """Take note of what the control plane last said."""
        self._good_until = time.monotonic() + self._ttl_seconds
        self.cancel = self.cancel or status.cancel
        self.pause, self.refilled = status.pause, status.refilled
        if status.teachers is not None:
            self._heard_of(status.teachers)

    def follow(self, update: Callable[[Endpoints], _Changes], tell: Callable[[_Changes], None]) -> None:
        """From now on have `update` told the endpoints in use whenever they are others than before, from any thread but
        never twice at once; then `tell` what it returned.
        """

        def follow(endpoints: Endpoints) -> Callable[[], None]:
            changes = update(endpoints)
            return lambda: tell(changes)

        with self._following:
            self._follow = follow
            told = None if self._endpoints is None else follow(self._endpoints)
        if told is not None:
            told()

    def unfollow(self) -> None:
        """Nobody is to be told any more. An update that is under way ends first."""
        with self._following:
            self._follow = None

    def _heard_of(self, endpoints: Endpoints) -> None:
        with self._following:
            if endpoints == self._endpoints:
                return
            self._endpoints = endpoints
            told = None if self._follow is None else self._follow(endpoints)
        if told is not None:
            told()

    def report(self, send: Callable[[], _Answer]) -> _Answer:
        """Send something, again and again while the failure may pass and the lease holds. `send` must be idempotent.

        Raises LeaseLost, or what the control plane refused it with.
        """
        wait_seconds = 0.2
        while True:
            self.check()
            try:
                return send()
            except LeaseLost:
                self.lost.set()
                raise
            except PASSING as error:
                _log.warning("%s: a report did not get through (%s); trying again", self._what, error)
                self.lost.wait(wait_seconds)
                wait_seconds = min(wait_seconds * 2, 5.0)

    def _beat(self) -> None:
        while not self._closing.wait(self._ttl_seconds / BEATS_PER_TTL):
            try:
                self.heard(self._send_beat())
            except Conflict as error:
                return self._lose(error)
            except Exception as error:  # a bug of ours must not end the heartbeats either, and unheard
                known = isinstance(error, PreceptorError)
                _log.warning("%s: a heartbeat did not get through (%s)", self._what, error, exc_info=not known)
                if time.monotonic() > self._good_until:
                    return self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self._closing.is_set():
            _log.warning("%s: lease lost (%s); nothing more is reported", self._what, error)
        self.lost.set()
