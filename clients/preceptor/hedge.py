"""What takes unusually long is sent to a second endpoint too; the first answer counts, the other is broken off."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

SAMPLES = 20
"""Answers that must have been timed before anything is called unusual."""
KEPT = 200
USUAL = 0.95
LEAST_SECONDS = 0.01

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class Runner(Protocol[Answer_co]):
    """One sending of a request."""

    def run(self) -> Answer_co: ...

    def break_off(self) -> None:
        """Nobody wants the answer any more. Called from another thread, also before `run` and after it."""
        ...


class Latencies:
    """How long answers took of late. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, float]] = deque(maxlen=KEPT)

    def add(self, tokens: int, seconds: float) -> None:
        """An answer to a request of so many tokens took so long."""
        with self._lock:
            self._kept.append((max(tokens, 1), seconds))

    def unusual_after(self, tokens: int) -> float | None:
        """Seconds after which such a request takes longer than 95 of 100 did; None: too few are known.

        A larger request than those is given time in proportion, a smaller one is given theirs.
        """
        with self._lock:
            kept = list(self._kept)
        if len(kept) < SAMPLES:
            return None
        scaled = sorted(seconds * max(1.0, tokens / known) for known, seconds in kept)
        return max(scaled[min(int(USUAL * len(scaled)), len(scaled) - 1)], LEAST_SECONDS)


def race(first: Runner[Answer], second: Callable[[], Runner[Answer] | None], after: float) -> tuple[Answer, bool]:
    """The first answer, and whether the second runner gave it.

    `second` is called when `after` seconds have passed without an answer; None: there is nobody else. A failure counts
    only when the other has failed too; then the first one's is raised.
    """
    ended: SimpleQueue[_Ended[Answer]] = SimpleQueue()
    running: list[Runner[Answer]] = []

    def start(runner: Runner[Answer]) -> None:
        def run() -> None:
            ended.put(_ended(runner))

        running.append(runner)
        threading.Thread(target=run, name="teacher-request", daemon=True).start()

    start(first)
    failure: BaseException | None = None
    try:
        try:
            outcome = ended.get(timeout=after)
        except Empty:
            if (rival := second()) is not None:
                start(rival)
            outcome = ended.get()
        while True:
            running.remove(outcome.runner)
            if outcome.failure is None:
                return outcome.answers[0], outcome.runner is not first
            if outcome.runner is first:
                failure = outcome.failure
            if not running:
                assert failure is not None, "the first always ends"
                raise failure
            outcome = ended.get()
    finally:
        for runner in running:
            runner.break_off()


@dataclass(frozen=True, slots=True)
class _Ended(Generic[Answer]):
    runner: Runner[Answer]
    answers: tuple[Answer, ...] = ()
    failure: BaseException | None = None


def _ended(runner: Runner[Answer]) -> _Ended[Answer]:
    try:
        return _Ended(runner, answers=(runner.run(),))
    except BaseException as error:
        return _Ended(runner, failure=error)
