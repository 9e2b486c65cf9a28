"""Who is worked on next, and with whom: blocking work never blocks the event loop, and too much of it is refused.

A model computes one thing at a time: one lane. Scores are computed in passes that several requests share, texts token
by token, and between any two such steps it is somebody else's turn, so that a small request waits for a step of a huge
one and never for its end. An engine that batches by itself gets several requests at once: several lanes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from preceptor.errors import Overloaded
from preceptor.wire.common import Problem
from preceptor_services.teacher.jobs import Abandoned, BrokenDown, Done, Entry, Job, Passes, Steps, Whole, Work
from preceptor_services.teacher.lanes import Lanes
from preceptor_services.teacher.turns import Turns

Result = TypeVar("Result")
Advance = Callable[[Sequence[Any]], Sequence[int]]
"""One pass for parts, the first one's turn: the tokens computed for each. Changes nothing where it raises."""
ANEW = "Ask another, or start it anew; its log says more."
_log = logging.getLogger(__name__)


class Scheduler:
    """A bounded queue, and the lanes that work it off."""

    def __init__(
        self,
        max_queue: int,
        *,
        lanes: int = 1,
        advance: Advance | None = None,
        pass_tokens: int = 1,
        watch: Callable[[int], object] = lambda depth: None,
    ) -> None:
        """lanes: jobs worked on at once. advance: for work in `Passes`, which needs one lane. pass_tokens: what a pass
        holds. `watch` is told how many jobs wait or run, whenever that changes."""
        self._max_queue, self._advance, self._watch = max_queue, advance, watch
        self._lanes = Lanes(lanes, self._take_steps, self._break_down)
        self._changed = threading.Condition()
        self._turns = Turns(pass_tokens)
        self._swaps: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._swapping = False
        self._typical = 0.1  # seconds of a job, a moving average: what Retry-After is made of
        self._closed = False
        self.broken: Problem | None = None
        """Why nothing is worked on any more: a lane has ended by an error that was no request's own."""
        self.when_broken: Callable[[], object] = lambda: None
        """Called in the lane that ends so."""

    @property
    def depth(self) -> int:
        """Jobs that wait or run."""
        return len(self._turns)

    @property
    def draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._closed

    def check(self) -> None:
        """Raises BrokenDown once nothing is worked on any more."""
        if self.broken is not None:
            raise BrokenDown(self.broken)

    def submit(self, job: Job, work: Callable[[], Result] | Work[Result]) -> Future[Done[Result]]:
        """Have the work done when its turn comes. Raises Overloaded at once: 429 queue full, 503 draining or broken."""
        entry = Entry(job, work if isinstance(work, (Whole, Steps, Passes)) else Whole(work))
        # First: a lane may be done with it before this thread goes on. Called where it is cancelled in the queue, too.
        entry.future.add_done_callback(lambda _: self._leave(entry))
        with self._changed:
            self._check_room()
            self._turns.enter(entry)
            self._watch(len(self._turns))
            self._wake()
        return entry.future

    async def run(self, job: Job, work: Callable[[], Result] | Work[Result]) -> Done[Result]:
        """Wait for the work. Raises Overloaded (see `submit`; a deadline that passed), or what the work raises.

        Work that has started goes on when this call is cancelled, until its next step or `job.check`.
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
        future: Future[Result] = Future()
        with self._changed:
            self._check_open()
            self._swaps.append((future, work))
            self._wake()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more jobs, and wait for those that were taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._lanes.join()

    def _check_open(self) -> None:
        self.check()
        if self._closed:
            raise Overloaded("The teacher is draining: it takes no more requests.", remedy="Ask another.")

    def _check_room(self) -> None:
        self._check_open()
        depth = len(self._turns)
        if depth >= self._max_queue:
            error = Overloaded(
                f"{depth} requests wait already, as many as this teacher takes.",
                remedy="Try again after Retry-After seconds.",
                retry_after=max(1.0, depth * self._typical / 2 / self._lanes.count),
            )
            error.problem = error.problem.model_copy(update={"status": 429})
            raise error

    def _wake(self) -> None:
        self._lanes.start()
        self._changed.notify_all()

    def _leave(self, entry: Entry) -> None:
        with self._changed:
            self._turns.leave(entry)
            self._watch(len(self._turns))
            self._changed.notify_all()

    def _take_steps(self) -> None:
        """A lane: one step after the other, until there is nothing left and nothing more to come. What a request's own
        work raises is that request's; anything else is raised."""
        while True:
            with self._changed:
                while (step := self._next()) is None:
                    if self._closed and not len(self._turns) and not self._swaps:
                        return
                    self._changed.wait()
            step()

    def _break_down(self, error: BaseException) -> None:
        """Who waits is told, who comes is refused, and every other lane ends: whose turn it is, nobody knows now."""
        with self._changed:
            if self.broken is not None:
                return  # a lane whose request was failed under it by the one that ended first
            _log.critical("a lane has ended, and with it the teacher", exc_info=error)
            told = BrokenDown(f"The teacher broke down: {type(error).__name__}: {error}", remedy=ANEW)
            self.broken, self._closed = told.problem, True
            for entry in self._turns.all():
                with suppress(InvalidStateError):  # another lane has just finished it
                    entry.fail(told)
            for future, _ in self._swaps:
                if future.set_running_or_notify_cancel():
                    future.set_exception(told)
            self._swaps.clear()
            self._changed.notify_all()
        self.when_broken()

    def _next(self) -> Callable[[], None] | None:
        """What a lane does now; None: nothing."""
        for entry, error in self._turns.abandoned():
            entry.fail(error)
        if self._swapping:
            return None
        if self._swaps and not self._turns.begun:
            self._swapping = True
            return partial(self._swap, *self._swaps.pop(0))
        taken = self._turns.take(finish_only=bool(self._swaps))
        if not taken:
            return None
        return partial(self._pass, taken) if isinstance(taken[0].work, Passes) else partial(self._step, taken[0])

    def _swap(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._changed:
                self._swapping = False
                self._changed.notify_all()

    def _step(self, entry: Entry) -> None:
        """All of a whole work, or one step of another."""
        if not entry.claim():
            return
        began = time.monotonic()
        outcome: Callable[[], None] | None = None
        try:
            if isinstance(entry.work, Whole):
                outcome = partial(entry.finish, entry.work.run())
            elif isinstance(entry.work, Steps):
                outcome = self._one_step(entry, entry.work)
        except BaseException as error:
            outcome = partial(entry.fail, error)
        self._charge([entry], time.monotonic() - began, [1])
        self._end(entry, outcome)

    def _one_step(self, entry: Entry, work: Steps[Any]) -> Callable[[], None] | None:
        entry.open = work.run() if entry.open is None else entry.open
        try:
            next(entry.open)
        except StopIteration as stop:
            return partial(entry.finish, stop.value)
        return None

    def _pass(self, entries: Sequence[Entry]) -> None:
        """One pass for all of them. Where it fails, one pass for each: a neighbour's trouble is not theirs."""
        opened = [entry for entry in entries if self._open(entry)]
        waiting = [entry for entry in opened if entry.open.left]
        if len(waiting) > 1 and self._passed(waiting) is not None:
            waiting = [entry for entry in waiting if entry.open.left]
            for entry in waiting:
                self._pass_alone(entry)
        elif len(waiting) == 1:
            self._pass_alone(waiting[0])
        for entry in opened:
            if entry.open is None:  # it failed
                continue
            outcome = None if entry.open.left else partial(self._conclude, entry)
            self._end(entry, outcome)

    def _pass_alone(self, entry: Entry) -> None:
        failure = self._passed([entry])
        if failure is not None:
            entry.fail(failure)

    def _open(self, entry: Entry) -> bool:
        """Begin where it has not begun. False where nobody waits, or it cannot begin."""
        assert isinstance(entry.work, Passes)
        if not entry.claim():
            return False
        try:
            entry.open = entry.work.begin() if entry.open is None else entry.open
        except BaseException as error:
            entry.fail(error)
            return False
        return True

    def _passed(self, entries: Sequence[Entry]) -> BaseException | None:
        """What became of a pass; None: it came to its end."""
        assert self._advance is not None, "work in passes needs `advance`"
        began = time.monotonic()
        try:
            tokens = self._advance([entry.open for entry in entries])
        except BaseException as error:
            if len(entries) == 1:
                return error
            # Its frames hold what there was no memory for: let go of them before anyone tries again.
            return error.with_traceback(None)
        self._charge(entries, time.monotonic() - began, tokens)
        return None

    def _conclude(self, entry: Entry) -> None:
        assert isinstance(entry.work, Passes)
        try:
            result = entry.work.finish(entry.open)
        except BaseException as error:
            entry.fail(error)
        else:
            entry.finish(result)

    def _charge(self, entries: Sequence[Entry], seconds: float, tokens: Sequence[int]) -> None:
        """Count a step's time for those who took part, by tokens."""
        with self._changed:
            for entry, mine in zip(entries, tokens, strict=True):
                if mine:
                    self._turns.charge(entry, seconds, mine / sum(tokens))

    def _end(self, entry: Entry, outcome: Callable[[], None] | None) -> None:
        """Its step is over; with an outcome, all of it."""
        if outcome is not None:
            self._typical += 0.2 * (entry.cost - self._typical)
            outcome()
        with self._changed:
            entry.busy = False
            self._changed.notify_all()
