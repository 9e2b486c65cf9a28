"""What the endpoints share: one object, made when the application starts and closed when it stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from preceptor.wire.teachers import Card, Probe
from preceptor_services.api.artifacts.blobs import Blobs
from preceptor_services.api.skills.retrieval import Indexes
from preceptor_services.db.session import Database
from preceptor_services.queue import Queue
from preceptor_services.settings import Settings


class Bell:
    """Rings when something was committed, so that a stream of events need not wait for its next look.

    Only a hint: a commit by another process is not heard, and whoever waits looks again after a while anyway.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next = asyncio.Event()
        self.closed = False
        """Nobody is to wait any more: the process stops."""

    def close(self) -> None:
        """Wake everybody for the last time."""
        self.closed = True
        self.ring()

    def ring(self) -> None:
        """Wake everybody who waits. From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The event that the next ring sets. Take it before looking, or a ring in between is missed."""
        return self._next


class Misses:
    """How often in a row an endpoint of a teacher did not answer when it was looked at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._missed: dict[str, int] = {}

    def missed(self, endpoint_id: str) -> int:
        """Count one more; says how many they are."""
        with self._lock:
            self._missed[endpoint_id] = self._missed.get(endpoint_id, 0) + 1
            return self._missed[endpoint_id]

    def answered(self, endpoint_id: str) -> None:
        """It did answer."""
        with self._lock:
            self._missed.pop(endpoint_id, None)

    def keep(self, endpoint_ids: set[str]) -> None:
        """Forget all others."""
        with self._lock:
            self._missed = {each: count for each, count in self._missed.items() if each in endpoint_ids}


class KeyUses:
    """When keys were last seen: kept here and written now and then, so that reading costs no write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, datetime] = {}

    def saw(self, key_id: str, at: datetime) -> None:
        """Note that a key was used."""
        with self._lock:
            self._seen[key_id] = at

    def take(self) -> dict[str, datetime]:
        """What was noted since the last call."""
        with self._lock:
            seen, self._seen = self._seen, {}
            return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """The control plane's parts."""

    settings: Settings
    database: Database
    blobs: Blobs
    queue: Queue
    clock: Callable[[], datetime]
    """This moment, in UTC. A test brings its own."""
    probe: Callable[..., tuple[Card, Probe]]
    """Looks at the teacher behind a URL, with a key or without. Raises PreceptorError where none answers."""
    vital: Callable[..., Card | None]
    """Asks the teacher behind a URL whether it answers, and who it is. Raises PreceptorError where it does not."""
    bell: Bell
    uses: KeyUses = field(default_factory=KeyUses)
    misses: Misses = field(default_factory=Misses)
    indexes: Indexes = field(default_factory=Indexes)
