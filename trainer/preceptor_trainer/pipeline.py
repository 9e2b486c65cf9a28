"""A run's stages at work at the same time: what is written is verified and scored while more is written.

    writer    a thread: waits for weights, writes a batch, hands over every part of it as soon as that is written
    stages    a thread each: takes part after part from the one before
    learner   the caller's thread: `take` gives it a batch when its last part has come through

What the parts of a batch are is settled before it is written, and every stage takes one part at a time. So the numbers
do not depend on how fast anyone is, only on the weights that write: with `max_lag` 0 a batch is begun when it is asked
for, by the weights as they are then; with more it is begun by the newest there are, as soon as those are new enough.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Protocol, Self, TypeVar

from preceptor_trainer.flow import Part, Taken, Times
from preceptor_trainer.views import Task

Result = TypeVar("Result")

POLL_SECONDS = 0.2
"""How often a wait looks up to see whether the run is wanted to stop."""
LEAVE_SECONDS = 5.0
"""How long the end waits for a stage in the middle of a call (to a teacher, say). A longer call is left to its own
deadline, and what it brings is thrown away."""


class Stopped(Exception):
    """The pipeline is closing: whoever is at work in it stops."""


Check = Callable[[], None]
"""Called now and then by whoever works long. Raises Stopped."""

Stage = Callable[[Part], Part]


class Writes(Protocol):
    """Whoever writes batches."""

    def __call__(self, tasks: Sequence[Task], step: int, check: Check) -> Iterator[Part]:
        """The parts of a step's batch, each as soon as it is written."""
        ...


class Pipeline:
    """The batches of `steps`, worked on while their predecessors are learned from. A context; opened once.

    An exception in any stage ends it: `take` raises that very exception.
    """

    def __init__(
        self,
        steps: range,
        max_lag: int,
        tasks: Callable[[int], Sequence[Task]],
        write: Writes,
        stages: Mapping[str, Stage],
    ) -> None:
        """`stages` by name, in their order. `tasks` and `write` are called in the writer's thread."""
        self._begin = lambda first: _Flight(range(first, steps.stop), max_lag, tasks, write, stages)
        self._flight = self._begin(steps.start)

    def __enter__(self) -> Self:
        self._flight.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._flight.end()

    def take(
        self, step: int, wanted: Callable[[], bool] = lambda: True, together: Callable[[bool], bool] = bool
    ) -> Taken | None:
        """The batch of a step, once it is ready; None as soon as `wanted` says no. Raises what a stage raised.

        `together` is asked, after every look, whether those who take at the same time are ready too.
        """
        self._flight.publish(step - 1)
        while wanted():  # first: a stage that was told to stop as well may fail of it
            if together(self._flight.ready(step)):
                return self._flight.take(step)
        return None

    def publish(self, version: int) -> None:
        """The weights have moved. With `max_lag` the next batches may be written by them at once; without, a batch is
        begun when it is taken, so that nobody else uses the student's weights meanwhile."""
        if self._flight.max_lag:
            self._flight.publish(version)

    def redo(self, change: Callable[[], Callable[[], None]]) -> None:
        """Have the last stage do anew what it has done, or is doing, of batches that were not taken yet. `change` is
        called when nothing counts any more of what it does, a failure included; what that returns is called once it
        does nothing, before it begins anew. Neither may wait."""
        self._flight.redo(change)

    def begin_again(self, step: int) -> None:
        """Throw away what is under way, and work on from this step: it was written by weights that are gone."""
        self._flight.end()
        self._flight = self._begin(step)
        self._flight.start()


class _Flight:
    """All that threads share, from one beginning to its end: what outlives the end finds nothing to spoil."""

    def __init__(
        self,
        steps: range,
        max_lag: int,
        tasks: Callable[[int], Sequence[Task]],
        write: Writes,
        stages: Mapping[str, Stage],
    ) -> None:
        self._steps = steps
        self.max_lag = max_lag
        self._tasks = tasks
        self._write = write
        self._stages = stages
        self._changed = threading.Condition()
        self._version = steps.start - 1 if max_lag else -1
        self._inboxes: dict[str, deque[Part]] = {name: deque() for name in stages}
        self._last: list[Part] = []
        self._redone = 0
        self._afresh: list[Callable[[], None]] = []
        self._written: set[int] = set()
        self._done: defaultdict[int, list[Part]] = defaultdict(list)
        self._times: defaultdict[int, Times] = defaultdict(Times)
        self._failure: BaseException | None = None
        self._closing = False
        names = list(stages)
        works: list[tuple[str, Callable[[], None]]] = [("sample", self._source)]
        works += [(name, self._worker(name, after)) for name, after in zip(names, [*names[1:], None], strict=True)]
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"pipeline-{name}", daemon=True)
            for name, work in works
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop everybody."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def publish(self, version: int) -> None:
        """Weights of this version may write."""
        with self._changed:
            self._version = max(self._version, version)
            self._changed.notify_all()

    def take(self, step: int) -> Taken:
        """A batch that is ready."""
        with self._changed:
            parts, times = self._done.pop(step), self._times.pop(step)
            self._last = [part for part in self._last if part.step > step]
        return Taken(parts=sorted(parts, key=lambda part: part.index), times=times)

    def redo(self, change: Callable[[], Callable[[], None]]) -> None:
        """All that the last stage was given goes back to it."""
        with self._changed:
            *_, last = self._stages
            self._redone += 1
            self._inboxes[last].extendleft(reversed(self._last))
            self._last.clear()
            self._done.clear()
            self._afresh.append(change())
            self._changed.notify_all()

    def ready(self, step: int) -> bool:
        """Whether a batch is there, after a wait of no more than POLL_SECONDS."""
        with self._changed:
            if self._failure is not None:
                raise self._failure
            done = self._done[step]
            if done and len(done) == done[0].of:
                return True
            missing = "scores" if step in self._written else "rollouts"
            began = monotonic()
            self._changed.wait(POLL_SECONDS)
            self._times[step].idle[f"learn/{missing}"] += monotonic() - began
            return False

    def _source(self) -> None:
        for step in self._steps:
            with self._changed:
                began = monotonic()
                self._until(lambda step=step: self._version >= step - 1 - self.max_lag)
                self._times[step].idle["sample/weights"] += monotonic() - began
            tasks = self._timed(step, "data", lambda step=step: self._tasks(step))
            parts = self._timed(step, "sample", lambda tasks=tasks, step=step: self._write(tasks, step, self._check))
            for handed in count(1):
                part = self._timed(step, "sample", lambda parts=parts: next(parts))
                if handed == part.of:
                    self._written.add(step)
                self._hand_on(part, next(iter(self._stages), None))
                if handed == part.of:
                    break

    def _worker(self, name: str, after: str | None) -> Callable[[], None]:
        inbox, stage = self._inboxes[name], self._stages[name]

        def work() -> None:
            while True:
                with self._changed:
                    began = monotonic()
                    self._until(lambda: bool(inbox))
                    part, given = inbox.popleft(), self._redone
                    self._times[part.step].idle[f"{name}/rollouts"] += monotonic() - began
                    if after is None:
                        self._last.append(part)
                        while self._afresh:
                            self._afresh.pop(0)()
                try:
                    done = self._timed(part.step, name, lambda part=part: stage(part))
                except Exception:
                    if after is not None or self._wanted(given):
                        raise
                    continue
                self._hand_on(done, after, given)

        return work

    def _wanted(self, given: int) -> bool:
        """Whether the last stage still does what it was given then, and has not to do it anew."""
        with self._changed:
            return given == self._redone

    def _hand_on(self, part: Part, stage: str | None, given: int | None = None) -> None:
        with self._changed:
            if stage is None and given not in (None, self._redone):
                return
            (self._done[part.step] if stage is None else self._inboxes[stage]).append(part)
            self._changed.notify_all()

    def _timed(self, step: int, stage: str, work: Callable[[], Result]) -> Result:
        began = monotonic()
        try:
            return work()
        finally:
            with self._changed:
                self._times[step].seconds[stage] += monotonic() - began

    def _until(self, ready: Callable[[], bool]) -> None:
        """Wait, holding `_changed`. Raises Stopped."""
        while not ready():
            self._check()
            self._changed.wait()
        self._check()

    def _check(self) -> None:
        if self._closing:
            raise Stopped

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            return
        except BaseException as error:  # whatever it is, it is the run's end, and the learner's thread says so
            with self._changed:
                self._failure = self._failure or error
                self._closing = True
                self._changed.notify_all()
