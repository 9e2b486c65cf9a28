"""What can be asked of the scheduler: a job, its work, and what came of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from preceptor.errors import Overloaded

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class BrokenDown(Overloaded):
    """Whoever was to do the work has ended by an error. 503: another teacher, or this one started anew, may do it."""

    slug, title = "broken-down", "The teacher broke down"


class Abandoned(Exception):
    """The caller went away, or its deadline has passed: nobody waits for the rest."""


@dataclass(slots=True)
class Job:
    """One request's work. `check` is called inside the work, between its pieces."""

    deadline: float | None = None
    """On the monotonic clock; None: none."""
    caller: str = ""
    """Who asks: callers get equal time."""
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
    """That it waited: for its first step, and between steps."""
    computed_seconds: float
    """Of the steps that it took part in, whoever else did."""


class Part(Protocol):
    """One request inside passes that several share."""

    @property
    def left(self) -> int:
        """Tokens that are still to be computed; 0: it is finished."""
        ...


@dataclass(frozen=True, slots=True)
class Whole(Generic[Result]):
    """Work that is done in one go."""

    run: Callable[[], Result]


@dataclass(frozen=True, slots=True)
class Steps(Generic[Result]):
    """Work that lets others have a turn wherever it yields. One such work is open at a time: each holds memory."""

    run: Callable[[], Generator[object, None, Result]]


@dataclass(frozen=True, slots=True)
class Passes(Generic[Result]):
    """Work that is done in passes which several requests share."""

    begin: Callable[[], Part]
    """Called in its first turn."""
    finish: Callable[[Any], Result]
    """From the part, once nothing of it is left."""
    tokens: int
    """That it makes, at most."""
    bytes: int
    """That its answer takes."""


Work = Whole[Result] | Steps[Result] | Passes[Result]


class Entry:
    """A job on its way. Owned by whoever has set `busy`, under the scheduler's lock."""

    def __init__(self, job: Job, work: Work[Any]) -> None:
        self.job, self.work = job, work
        self.future: Future[Done[Any]] = Future()
        self.arrived = time.monotonic()
        self.computed = 0.0
        self.cost = 0.0
        """Seconds that were spent for it alone: its share of every step."""
        self.busy = False
        self.open: Any = None
        """The part, or the steps, once it has begun."""

    @property
    def begun(self) -> bool:
        """Whether something of it has been computed, or is being."""
        return self.busy or self.open is not None

    def claim(self) -> bool:
        """Whether anybody still waits; from then on it cannot be cancelled."""
        return self.future.running() or (not self.future.cancelled() and self.future.set_running_or_notify_cancel())

    def finish(self, result: object) -> None:
        """Say what came of it."""
        waited = time.monotonic() - self.arrived - self.computed
        self.future.set_result(Done(result, max(0.0, waited), self.computed))

    def fail(self, error: BaseException) -> None:
        """Say why nothing came of it."""
        opened, self.open = self.open, None
        try:
            if isinstance(self.work, Steps) and opened is not None:
                opened.close()
        except Exception:  # of its tidying up, which is nobody's answer
            _log.exception("What was begun could not be left")
        if self.claim():
            self.future.set_exception(error)
