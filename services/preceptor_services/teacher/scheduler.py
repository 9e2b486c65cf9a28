"""One worker thread, one bounded queue: blocking work never blocks the event loop, and too much of it is refused.

One thread because a model computes one thing at a time: a second would halve the first's speed and double its memory.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from preceptor.errors import Overloaded

Result = TypeVar("Result")


class Abandoned(Exception):
    """The caller went away, or its deadline has passed: nobody waits for the rest."""


@dataclass(slots=True)
class Job:
    """One request's work. `check` is called inside the work, between its pieces."""

    deadline: float | None = None
    """On the monotonic clock; None: none."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when the caller has gone."""

    def check(self) -> None:
        """Raises Abandoned when nobody waits for the work any more."""
        if self.gone.is_set():
            raise Abandoned("the caller went away")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Abandoned("its deadline has passed")


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What came of a job."""

    result: Result
    queued_seconds: float
    computed_seconds: float


class Scheduler:
    """Runs jobs one at a time, in order of arrival."""

    def __init__(self, max_queue: int, *, watch: Callable[[int], object] = lambda depth: None) -> None:
        """`watch` is told how many jobs wait or run, whenever that changes."""
        self._max_queue = max_queue
        self._watch = watch
        self._lock = threading.Lock()
        self._depth = 0
        self._typical = 0.1  # seconds of a job, a moving average: what Retry-After is made of
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher")

    @property
    def depth(self) -> int:
        """Jobs that wait or run."""
        return self._depth

    @property
    def draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._closed

    def submit(self, job: Job, work: Callable[[], Result]) -> Future[Done[Result]]:
        """Have the work done when its turn comes. Raises Overloaded at once: 429 queue full, 503 draining."""
        self._enter()
        arrived = time.monotonic()

        def turn() -> Done[Result]:
            began = time.monotonic()
            job.check()
            result = work()
            seconds = time.monotonic() - began
            self._typical += 0.2 * (seconds - self._typical)
            return Done(result, began - arrived, seconds)

        future = self._thread.submit(turn)
        future.add_done_callback(lambda _: self._leave())  # also where it was cancelled before its turn came
        return future

    async def run(self, job: Job, work: Callable[[], Result]) -> Done[Result]:
        """Wait for the work. Raises Overloaded (see `submit`; a deadline that passed), or what the work raises.

        Work that has started goes on when this call is cancelled, until its next `job.check`.
        """
        try:
            return await asyncio.wrap_future(self.submit(job, work))
        except asyncio.CancelledError:
            job.gone.set()
            raise
        except Abandoned as error:
            raise Overloaded(f"The request was given up: {error}.", remedy="Allow more time, or send less.") from error

    async def exclusive(self, work: Callable[[], Result]) -> Result:
        """Do something that no request may see half of, such as loading other weights: between two requests.

        What has begun is finished before; what waits goes on waiting, and begins afterwards. Never refused for a full
        queue. Raises Overloaded (503) while draining, and what the work raises. Once it runs, cancelling this call
        does not stop it.
        """
        if self._closed:
            raise Overloaded("The teacher is draining: it takes no more requests.", remedy="Ask another.")
        return await asyncio.wrap_future(self._thread.submit(work))

    def close(self) -> None:
        """Take no more jobs, and wait for those that were taken."""
        self._closed = True
        self._thread.shutdown(wait=True)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise Overloaded("The teacher is draining: it takes no more requests.", remedy="Ask another.")
            if self._depth >= self._max_queue:
                error = Overloaded(
                    f"{self._depth} requests wait already, as many as this teacher takes.",
                    remedy="Try again after Retry-After seconds.",
                    retry_after=max(1.0, self._depth * self._typical / 2),
                )
                error.problem = error.problem.model_copy(update={"status": 429})
                raise error
            self._depth += 1
            self._watch(self._depth)

    def _leave(self) -> None:
        with self._lock:
            self._depth -= 1
            self._watch(self._depth)
