"""What the loop reports reaches the control plane; what a resumed run recomputes is compared, and said once."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor.client import Client
from preceptor.errors import Conflict, LeaseLost, PreceptorError, Unreachable
from preceptor.replicas import Changes
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Evaluation, LeaseGrant, LeaseStatus, Note, ReplicaAddress, StepReport, StepsReport
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.reporter import RunReporter
from preceptor_trainer.reporting import Signal

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Runs:
    """Remembers what it was told."""

    def __init__(self, recorded: list[StepReport]) -> None:
        self.recorded = recorded
        self.reports = list[StepsReport]()
        self.notes = list[Note]()
        self.answer = LeaseStatus(until=NOW)
        self.note_fails: PreceptorError | None = None
        self.pause_fails: PreceptorError | None = None
        self.paused = 0
        self.held = list[tuple[int, str, int, list[HeldDebate]]]()
        """With how many steps were recorded then."""

    def report(self, run_id: str, report: StepsReport) -> LeaseStatus:
        self.reports.append(report)
        return self.answer

    def record_held(self, run_id: str, fence: int, held: list[HeldDebate]) -> LeaseStatus:
        self.held.append((len(self.reports), run_id, fence, held))
        return self.answer

    def note(self, run_id: str, note: Note) -> LeaseStatus:
        if self.note_fails is not None:
            raise self.note_fails
        self.notes.append(note)
        return self.answer

    def pause(self, run_id: str) -> None:
        if self.pause_fails is not None:
            raise self.pause_fails
        self.paused += 1

    def metrics(self, run_id: str, *, after: int = 0) -> list[StepReport]:
        return [each for each in self.recorded if each.step > after]


def step(number: int, loss: float) -> StepReport:
    return StepReport(step=number, metrics={"loss": loss})


def reporter_on(runs: Runs, *, checkpoint: int | None, attempt: int) -> tuple[RunReporter, threading.Event]:
    reference = None if checkpoint is None else SimpleNamespace(step=checkpoint)
    run = SimpleNamespace(id="run-1", name="mine", checkpoint=reference, attempt=attempt, refilled=())
    recorded = runs.recorded[-1].step if runs.recorded else 0
    grant = cast(LeaseGrant, SimpleNamespace(run=run, fence=7, ttl_seconds=60.0, recorded_step=recorded))
    client, stopping = cast(Client, SimpleNamespace(runs=runs, debates=runs)), threading.Event()
    return RunReporter(client, grant, Lease.on_run(client, grant), stopping), stopping


def test_a_first_attempt_notes_nothing() -> None:
    runs = Runs([])
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    reporter.begin()
    assert reporter.step(step(1, 0.5), []) is Signal.GO
    reporter.evaluation(
        Evaluation(step=1, n=2, correct=1, accuracy=0.5, ci95=0.4, mean_length=3, seconds=0.1, hits=[True, False])
    )
    assert [len(each.steps) for each in runs.reports] == [1, 0]
    assert all(each.fence == 7 for each in runs.reports)
    assert not runs.notes
    assert reporter.step_done == 1


@pytest.mark.parametrize(("again", "difference"), [((0.5, 0.4), 0.0), ((0.5, 0.43), 0.03), ((math.nan, 0.4), math.inf)])
def test_recomputed_steps_are_compared_once_they_are_all_there(again: tuple[float, float], difference: float) -> None:
    runs = Runs([step(1, 0.9), step(2, 0.6), step(3, 0.5), step(4, 0.4)])
    reporter, _ = reporter_on(runs, checkpoint=2, attempt=2)
    reporter.begin()
    for number, loss in zip((3, 4), again, strict=True):
        assert not runs.notes
        reporter.step(step(number, loss), [])
    reporter.step(step(5, 0.3), [])
    (note,) = runs.notes
    assert note.kind == "resumed"
    assert note.data["from_step"] == 2 and note.data["recorded_step"] == 4
    assert note.data["largest_difference"] == pytest.approx(difference)


def test_where_nothing_is_recomputed_it_is_said_at_once() -> None:
    runs = Runs([step(1, 0.9), step(2, 0.6)])
    reporter, _ = reporter_on(runs, checkpoint=2, attempt=2)
    reporter.begin()
    assert [note.data for note in runs.notes] == [{"from_step": 2, "recorded_step": 2, "largest_difference": 0.0}]


def test_what_debaters_said_is_recorded_after_its_step_and_once() -> None:
    runs, held = Runs([]), cast(HeldDebate, "a debate")
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    reporter.debates([held])
    assert not runs.held, "the step is not recorded yet"
    reporter.step(step(1, 0.5), [])
    reporter.step(step(2, 0.5), [])
    assert runs.held == [(1, "run-1", 7, [held])], "after the first of two steps, under the lease"


def test_the_loop_is_told_to_cancel_before_it_is_told_to_stop() -> None:
    runs = Runs([])
    reporter, stopping = reporter_on(runs, checkpoint=None, attempt=1)
    stopping.set()
    assert reporter.step(step(1, 0.5), []) is Signal.STOP
    runs.answer = LeaseStatus(until=NOW, cancel=True)
    assert reporter.step(step(2, 0.5), []) is Signal.CANCEL


def test_what_heartbeats_tell_is_known_without_a_report() -> None:
    reporter, stopping = reporter_on(Runs([]), checkpoint=None, attempt=1)
    assert reporter.signal() is Signal.GO
    reporter._lease.heard(LeaseStatus(until=NOW, pause=True))
    assert reporter.signal() is Signal.PAUSE
    stopping.set()
    assert reporter.signal() is Signal.STOP
    reporter._lease.heard(LeaseStatus(until=NOW, cancel=True))
    assert reporter.signal() is Signal.CANCEL
    reporter._lease.lost.set()
    with pytest.raises(LeaseLost):
        reporter.signal()


def test_endpoints_that_join_and_leave_are_handed_on_and_noted() -> None:
    runs = Runs([])
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    seen = list[object]()

    def update(endpoints: object) -> dict[str, Changes]:
        seen.append(endpoints)
        return {"self": Changes(joined=("http://b",), left=("http://a",), refused=("http://c: no key",))}

    addresses = {"self": (ReplicaAddress(url="http://b"),)}
    runs.answer = LeaseStatus(until=NOW, teachers=addresses)
    with reporter.following(update):
        reporter.step(step(1, 0.5), [])
        reporter.step(step(2, 0.5), [])
    assert seen == [addresses], "once for one change"
    (note,) = runs.notes
    assert note.kind == "note" and note.fence == 7
    assert "now also asks http://b; no longer asks http://a; cannot ask http://c: no key" in note.data["message"]
    assert (note.data["role"], note.data["joined"], note.data["left"]) == ("self", ["http://b"], ["http://a"])
    runs.answer = LeaseStatus(until=NOW, teachers={"self": ()})
    reporter.step(step(3, 0.5), [])
    assert len(seen) == 1, "nobody follows any more"


def test_a_note_that_does_not_get_through_stops_nothing() -> None:
    runs = Runs([])
    runs.note_fails = Unreachable("Restarting.")
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    runs.answer = LeaseStatus(until=NOW, teachers={"self": (ReplicaAddress(url="http://b"),)})
    with reporter.following(lambda endpoints: {"self": Changes(joined=("http://b",))}):
        assert reporter.step(step(1, 0.5), []) is Signal.GO


def test_the_loop_is_told_to_pause() -> None:
    runs = Runs([])
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    runs.answer = LeaseStatus(until=NOW, pause=True)
    assert reporter.step(step(1, 0.5), []) is Signal.PAUSE


def test_a_step_without_a_number_that_comes_out_without_one_again_is_no_difference() -> None:
    runs = Runs([step(1, math.nan)])
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=2)
    reporter.begin()
    reporter.step(step(1, math.nan), [])
    assert runs.notes[0].data["largest_difference"] == 0.0


def test_what_was_noted_of_a_step_is_not_noted_when_the_step_is_computed_again() -> None:
    runs = Runs([step(1, 0.9), step(2, 0.6)])
    reporter, _ = reporter_on(runs, checkpoint=2, attempt=2)
    reporter.note({"message": "Guard entropy at step 2"}, 2)
    reporter.note({"message": "Guard entropy at step 3"}, 3)
    assert [note.data for note in runs.notes] == [{"message": "Guard entropy at step 3"}]


def test_what_comes_before_the_first_step_is_noted() -> None:
    runs = Runs([])
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    reporter.note({"message": "The skill bank is at version 1, cold start"}, 0)
    assert [note.data["message"] for note in runs.notes] == ["The skill bank is at version 1, cold start"]


def test_a_guards_pause_is_asked_for_once_and_yields_to_a_cancel() -> None:
    runs = Runs([])
    reporter, _ = reporter_on(runs, checkpoint=None, attempt=1)
    reporter.pause()
    assert runs.paused == 1
    reporter._lease.heard(LeaseStatus(until=NOW, pause=True))
    reporter.pause()
    assert runs.paused == 1, "it is being paused already"
    reporter._lease.heard(LeaseStatus(until=NOW, pause=False))
    runs.pause_fails = Conflict("Run run-1 is being cancelled.")
    reporter.pause()
    runs.pause_fails = LeaseLost("Somebody else has it.")
    with pytest.raises(LeaseLost):
        reporter.pause()
