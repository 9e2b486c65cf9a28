"""The pipeline on stages that do nothing but wait for the test: order, lag, failures, ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from preceptor.wire.runs import TeacherLedger
from preceptor_trainer import pipeline as module
from preceptor_trainer.flow import Part
from preceptor_trainer.pipeline import Pipeline, Stage, Stopped
from preceptor_trainer.views import Message, Task
from tests.unit.trainer.toy import toy_rows

SECONDS = 20
"""Long enough for any machine; nothing waits for it unless something is broken."""


def tasks(step: int) -> list[Task]:
    return [Task(id=f"task-{step}", messages=(Message(role="user", content="?"),))]


@dataclass
class Source:
    """Writes `of` parts a step, the last first; remembers which steps were begun."""

    of: int = 2
    begun: list[int] = field(default_factory=list[int])
    change: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, tasks: Sequence[Task], step: int, check: Callable[[], None]) -> Iterator[Part]:
        with self.change:
            self.begun.append(step)
            self.change.notify_all()
        for index in reversed(range(self.of)):
            check()
            yield Part(step=step, index=index, of=self.of, rows=toy_rows((index + 1,)))

    def wait_for(self, begun: list[int]) -> None:
        with self.change:
            assert self.change.wait_for(lambda: self.begun == begun, SECONDS), self.begun


def same(part: Part) -> Part:
    return part


def pipeline(source: Source, max_lag: int = 0, steps: range = range(1, 9), **stages: Stage) -> Pipeline:
    return Pipeline(steps, max_lag, tasks, source, stages or {"verify": same, "score": same})


def test_parts_go_through_every_stage_and_come_back_in_their_order() -> None:
    went: list[tuple[str, int, int]] = []

    def noting(name: str) -> Stage:
        def stage(part: Part) -> Part:
            went.append((name, part.step, part.index))
            return replace(part, rows=[*part.rows, *part.rows])

        return stage

    with pipeline(Source(of=3), verify=noting("verify"), score=noting("score")) as running:
        for step in range(1, 4):
            taken = running.take(step)
            assert taken is not None
            assert [part.index for part in taken.parts] == [0, 1, 2]
            assert [len(part.rows) for part in taken.parts] == [4, 4, 4]
            assert {"data", "sample", "verify", "score"} == set(taken.times.seconds)
            assert {"sample/weights", "verify/rollouts", "score/rollouts"} <= set(taken.times.idle)
    for name in ("verify", "score"):
        assert [each[1:] for each in went if each[0] == name] == [(s, i) for s in (1, 2, 3) for i in (2, 1, 0)]


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_nothing_is_written_by_weights_that_are_too_old(max_lag: int) -> None:
    source = Source()
    with pipeline(source, max_lag) as running:
        source.wait_for(list(range(1, max_lag + 2)) if max_lag else [])
        for step in range(1, 5):
            taken = running.take(step)
            assert taken is not None
            running.publish(step)
            ahead = range(1, step + max_lag + 2) if max_lag else range(1, step + 1)
            source.wait_for(list(ahead))


def test_with_no_lag_a_batch_is_begun_when_it_is_asked_for() -> None:
    source = Source()
    with pipeline(source) as running:
        running.publish(5)
        assert running.take(1) is not None
        assert source.begun == [1]


class Broken(Exception):
    pass


@dataclass
class Hanging:
    """A last stage that waits in its third part for somebody to let it go, and then fails."""

    said: str = "old"
    heard: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    hangs: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, part: Part) -> Part:
        self.heard.append((part.step, part.index, self.said))
        if len(self.heard) == 3:
            self.hangs.set()
            assert self.go.wait(SECONDS)
            raise Broken("it was broken off")
        return replace(part, teachers={self.said: TeacherLedger()})


@pytest.mark.parametrize("max_lag", [0, 1])
def test_what_hangs_in_the_last_stage_is_done_anew_with_all_that_was_not_taken(max_lag: int) -> None:
    stage = Hanging()

    def change() -> Callable[[], None]:
        stage.go.set()
        return lambda: setattr(stage, "said", "new")

    with pipeline(Source(of=2), max_lag, verify=same, score=stage) as running:
        first, looks = running.take(1), count()

        def wanted() -> bool:
            if next(looks) == 0:
                running.publish(1)
                assert stage.hangs.wait(SECONDS)
                running.redo(change)
            return True

        second = running.take(2, wanted)
        assert first is not None and second is not None
        third = running.take(3)
        assert third is not None
    said = [[*part.teachers] for taken in (first, second, third) for part in taken.parts]
    assert said == [["old"]] * 2 + [["new"]] * 4
    before, after = stage.heard[:3], stage.heard[3:7]
    assert before == [(1, 1, "old"), (1, 0, "old"), (2, 1, "old")]
    assert after == [(2, 1, "new"), (2, 0, "new"), (3, 1, "new"), (3, 0, "new")]


def test_what_had_come_through_is_done_anew_too() -> None:
    went = list[int]()

    def stage(part: Part) -> Part:
        went.append(part.index)
        return part

    with pipeline(Source(of=2), score=stage) as running:

        def wanted() -> bool:
            if len(went) == 2:
                running.redo(lambda: lambda: went.append(-1))
            return True

        assert (taken := running.take(1, wanted, lambda ready: ready and len(went) > 2)) is not None
        assert [part.index for part in taken.parts] == [0, 1]
    assert went == [1, 0, -1, 1, 0]


def breaks(part: Part) -> Part:
    raise Broken("the stage")


@pytest.mark.parametrize("where", ["tasks", "write", "verify", "score"])
def test_what_a_stage_raises_is_what_ends_the_run(where: str) -> None:
    def no_tasks(step: int) -> list[Task]:
        raise Broken("the data")

    def writes_nothing(tasks: Sequence[Task], step: int, check: Callable[[], None]) -> Iterator[Part]:
        raise Broken("the writer")

    stages: dict[str, Stage] = {name: breaks if name == where else same for name in ("verify", "score")}
    running = Pipeline(
        range(1, 9),
        1,
        no_tasks if where == "tasks" else tasks,
        writes_nothing if where == "write" else Source(),
        stages,
    )
    with running, pytest.raises(Broken):
        running.take(1)


def test_a_wait_ends_when_somebody_wants_it_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.01)
    called, release = threading.Event(), threading.Event()

    def stuck(part: Part) -> Part:
        called.set()
        release.wait(SECONDS)
        return part

    with pipeline(Source(), score=stuck) as running:
        assert running.take(1, lambda: not called.is_set()) is None
    release.set()


def test_whoever_writes_is_told_to_stop() -> None:
    told, begun = threading.Event(), threading.Event()

    def endless(tasks: Sequence[Task], step: int, check: Callable[[], None]) -> Iterator[Part]:
        begun.set()
        try:
            while True:
                check()
        except Stopped:
            told.set()
            raise
        yield Part(step=step, index=0, of=1, rows=[])

    with Pipeline(range(1, 3), 1, tasks, endless, {"score": same}):
        assert begun.wait(SECONDS)
    assert told.wait(SECONDS)


def test_what_is_under_way_is_thrown_away_when_it_begins_again() -> None:
    source = Source()
    with pipeline(source, max_lag=2) as running:
        source.wait_for([1, 2, 3])
        assert running.take(1) is not None
        running.begin_again(2)
        source.wait_for([1, 2, 3, 2, 3, 4])
        taken = running.take(2)
        assert taken is not None and [part.step for part in taken.parts] == [2, 2]


def test_what_a_learner_waits_for_has_a_name() -> None:
    written, release, polls = threading.Event(), threading.Event(), list[int]()

    def write(tasks: Sequence[Task], step: int, check: Callable[[], None]) -> Iterator[Part]:
        written.set()
        yield Part(step=step, index=0, of=1, rows=[])

    def slow(part: Part) -> Part:
        assert release.wait(SECONDS)
        return part

    def patient() -> bool:
        polls.append(written.is_set())
        if sum(polls) > 2:
            release.set()
        return True

    with Pipeline(range(1, 9), 0, tasks, write, {"score": slow}) as running:
        taken = running.take(1, patient)
    assert taken is not None
    assert taken.times.idle["learn/scores"] > 0
