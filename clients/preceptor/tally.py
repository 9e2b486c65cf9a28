"""What passed between a run and one role's teacher, counted until somebody takes the count."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from preceptor.wire.runs import TeacherLedger


class Tally:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledger = TeacherLedger()

    def count(self, **more: float) -> None:
        """Add to counters, by their names in the ledger."""
        with self._lock:
            counts = {name: getattr(self._ledger, name) + value for name, value in more.items()}
            self._ledger = self._ledger.model_copy(update=counts)

    def sent_to(self, url: str) -> None:
        """A score request goes to this endpoint."""
        with self._lock:
            endpoints = {**self._ledger.endpoints, url: self._ledger.endpoints.get(url, 0) + 1}
            update = {"requests": self._ledger.requests + 1, "endpoints": endpoints}
            self._ledger = self._ledger.model_copy(update=update)

    def saw(self, version: int) -> None:
        """A score of this weights version arrived."""
        with self._lock:
            versions = sorted({*self._ledger.weights_versions, version})
            self._ledger = self._ledger.model_copy(update={"weights_versions": versions})

    def changed(self, joined: Sequence[str], left: Sequence[str]) -> None:
        """From now on these endpoints are asked too, and those no longer."""
        with self._lock:
            update = {
                "joined": sorted({*self._ledger.joined, *joined}),
                "left": sorted({*self._ledger.left, *left}),
            }
            self._ledger = self._ledger.model_copy(update=update)

    def take(self) -> TeacherLedger:
        """All since the last time."""
        with self._lock:
            taken, self._ledger = self._ledger, TeacherLedger()
            return taken
