"""A breaker: whoever failed several times in a row is left alone for a while, then tried with one request.

closed     -> open       after FAILURES in a row
open       -> half-open  when the pause is over: one request is let through
half-open  -> closed     it was answered;  -> open, for twice as long, it was not
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES = 3
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds: what has been away for long is still looked at this often."""


class Breaker:
    """Of one endpoint. Safe to share between threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._pause = FIRST_PAUSE
        self._until: float | None = None
        """When the next request may be let through; None: closed."""
        self._trying = False

    @property
    def opens_in(self) -> float:
        """Seconds until a request may be let through; 0 now, infinite while the one of a half-open breaker is out."""
        with self._lock:
            if self._until is None:
                return 0.0
            return float("inf") if self._trying else max(0.0, self._until - self._clock())

    @property
    def closed(self) -> bool:
        """Nothing is known against the endpoint."""
        return self._until is None

    def enter(self) -> bool:
        """Whether a request may be sent now. Whoever was told True says afterwards what came of it."""
        with self._lock:
            if self._until is None:
                return True
            if self._trying or self._clock() < self._until:
                return False
            self._trying = True
            return True

    def answered(self) -> None:
        """It works."""
        with self._lock:
            self._in_a_row, self._pause, self._until, self._trying = 0, FIRST_PAUSE, None, False

    def failed(self) -> None:
        """No answer, or one that says that it cannot."""
        with self._lock:
            self._in_a_row += 1
            if self._trying:
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
            if self._trying or self._in_a_row >= FAILURES:
                self._until, self._trying = self._clock() + self._pause, False

    def gave_up(self) -> None:
        """The request was broken off before anything could be learned from it."""
        with self._lock:
            self._trying = False
