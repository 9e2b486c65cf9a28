"""What the trainer's loop reports of a run, sent to the control plane under the run's lease."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preceptor.client import Client
from preceptor.errors import Conflict, LeaseLost, PreceptorError
from preceptor.replicas import Changes
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import (
    CheckpointReport,
    Evaluation,
    LeaseGrant,
    Note,
    Sample,
    StepReport,
    StepsReport,
    TeacherLedger,
)
from preceptor_services.worker.lease import Endpoints, Lease
from preceptor_trainer.reporting import Signal

_log = logging.getLogger(__name__)


class RunReporter:
    """The loop's `Reporter`. Every method raises LeaseLost once the run is no longer this worker's.

    After a resume the loop recomputes the steps between its checkpoint and the last recorded one. They are sent like
    any other, and the control plane stores none twice; how far they came out from the recorded ones is noted once.
    """

    def __init__(self, client: Client, grant: LeaseGrant, lease: Lease, stopping: threading.Event) -> None:
        self._client = client
        self._run = grant.run
        self._lease = lease
        self._stopping = stopping
        self.checkpoint_step = grant.run.checkpoint.step if grant.run.checkpoint else None
        """Where the run would go on from; None: at the beginning."""
        self.step_done = self._from_step = self.checkpoint_step or 0
        """The last step that the loop has finished."""
        self._recorded_step = grant.recorded_step
        self._recorded_loss: dict[int, float] = {}
        self._largest_difference = 0.0
        self._debates: list[HeldDebate] = []
        first = self._from_step + 1
        self._refills = [
            (first, each.role, each.left, each.joined) for each in self._run.refilled if each.step == first
        ]

    def begin(self) -> None:
        """Get ready to compare what a resumed run recomputes; where it recomputes nothing, say so at once."""
        if self._run.attempt <= 1:
            return
        if self._recorded_step <= self._from_step:
            self._note_resumed()
            return
        recorded = self._lease.report(lambda: list(self._client.runs.metrics(self._run.id, after=self._from_step)))
        self._recorded_loss = {each.step: each.metrics["loss"] for each in recorded}

    @contextmanager
    def following(self, update: Callable[[Endpoints], Mapping[str, Changes]]) -> Iterator[None]:
        """While it is open, have `update` (a pool's) told where teachers answer whenever that changes; note in the run
        what came of it.
        """
        self._lease.follow(update, self._note_endpoints)
        try:
            yield
        finally:
            self._lease.unfollow()

    def refilled(self, role: str, left: str | None, joined: str | None, step: int) -> None:
        """Take note that another teacher is asked from this step on; None: nobody."""
        self._refills.append((step, role, left, joined))
        data = {"message": f"Role {role}: from step {step} on {joined or 'nobody'} is asked", "role": role}
        self._note_once({**data, "step": step, "joined": joined, "left": left})

    def asked_anew(self) -> None:
        """Take note that whoever was to be asked from a later step on is asked about the one that is waited for."""
        step = self.step_done + 1
        later = [(role, left, joined) for at, role, left, joined in self._refills if at > step]
        self._refills = [each for each in self._refills if each[0] <= step] + [(step, *each) for each in later]
        for role in sorted({role for role, _, _ in later}):
            mine = [(left, joined) for of, left, joined in later if of == role]
            left, joined = mine[0][0], mine[-1][1]
            said = (
                f"Role {role}: all of step {step} is asked anew, of {joined or 'nobody'} in place of {left or 'nobody'}"
            )
            self._note_once({"message": said, "role": role, "step": step, "joined": joined, "left": left})

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal:
        """Record a step, with the teachers that came with it; the answer is what the loop has to do next."""
        report = self._with_refills(report)
        self._send(StepsReport(fence=self._lease.fence, steps=[report], samples=list(samples)))
        self._record_debates()
        self.step_done = report.step
        if report.step <= self._recorded_step:
            self._compare(report)
        return self.signal()

    def debates(self, held: Sequence[HeldDebate]) -> None:
        """What debaters said, of the step that is told next: recorded with it."""
        self._debates += held

    def signal(self) -> Signal:
        """What is wanted of the run, as far as heartbeats and reports have told. Raises LeaseLost."""
        self._lease.check()
        if self._lease.cancel:
            return Signal.CANCEL
        if self._stopping.is_set():
            return Signal.STOP
        return Signal.PAUSE if self._lease.pause else Signal.GO

    def evaluation(self, evaluation: Evaluation) -> None:
        """Record an evaluation."""
        self._send(StepsReport(fence=self._lease.fence, evaluations=[evaluation]))

    def checkpoint(self, folder: Path, step: int) -> None:
        """Upload a checkpoint, then name it as the one to go on from."""
        name = f"{self._run.name}-step-{step}"
        artifact = self._lease.report(lambda: self._client.artifacts.push(folder, ArtifactKind.CHECKPOINT, name))
        report = CheckpointReport(fence=self._lease.fence, step=step, artifact=artifact)
        self._lease.heard(self._lease.report(lambda: self._client.runs.checkpoint(self._run.id, report)))
        self.checkpoint_step = step

    def note(self, data: Mapping[str, object], step: int) -> None:
        """Tell whoever watches the run something about a step; of one that is computed again it was told before. Step 0
        is what comes before the first one, and is never computed again."""
        if 0 < step <= self._recorded_step:
            return
        _log.info("run %s: %s", self._run.id, data.get("message", data))
        note = Note(fence=self._lease.fence, data=dict(data))
        self._lease.heard(self._lease.report(lambda: self._client.runs.note(self._run.id, note)))

    def pause(self) -> None:
        """Ask for the pause that a guard has decided on: the run is not given to another worker then."""
        if self._lease.pause:
            return
        try:
            self._lease.report(lambda: self._client.runs.pause(self._run.id))
        except LeaseLost:
            raise
        except Conflict as error:  # somebody cancels it just now, and has the last word
            _log.info("run %s: not paused (%s)", self._run.id, error)

    def _send(self, report: StepsReport) -> None:
        self._lease.heard(self._lease.report(lambda: self._client.runs.report(self._run.id, report)))

    def _record_debates(self) -> None:
        held, self._debates = self._debates, []
        if held:
            record = self._client.debates.record_held
            self._lease.heard(self._lease.report(lambda: record(self._run.id, self._lease.fence, held)))

    def _compare(self, report: StepReport) -> None:
        recorded, again = self._recorded_loss.get(report.step, math.nan), report.metrics["loss"]
        both_nan = math.isnan(recorded) and math.isnan(again) and report.step in self._recorded_loss
        if recorded != again and not both_nan:  # also where one of them is not a number
            difference = abs(recorded - again)
            self._largest_difference = max(self._largest_difference, math.inf if math.isnan(difference) else difference)
        if report.step == self._recorded_step:
            self._note_resumed()

    def _note_endpoints(self, changes: Mapping[str, Changes]) -> None:
        for role, each in sorted(changes.items()):
            said = [f"now also asks {url}" for url in each.joined]
            said += [f"no longer asks {url}" for url in each.left]
            said += [f"cannot ask {why}" for why in each.refused]
            if not said:
                continue
            message = f"Role {role}: the worker {'; '.join(said)}"
            _log.info("run %s: %s", self._run.id, message)
            data = {
                "message": message[:2000],
                "role": role,
                "joined": list(each.joined),
                "left": list(each.left),
                "refused": list(each.refused),
            }
            self._note_once(data)

    def _note_once(self, data: dict[str, Any]) -> None:
        """What a heartbeat has told must not make anybody wait, and changes what is done whoever is told."""
        note = Note(fence=self._lease.fence, data=data)
        try:
            self._lease.heard(self._client.runs.note(self._run.id, note))
        except PreceptorError as error:
            _log.warning("run %s: a note did not get through (%s)", self._run.id, error)

    def _with_refills(self, report: StepReport) -> StepReport:
        """The report with who left and who joined with its step, by role."""
        teachers = dict(report.ledger.teachers)
        mine = [each for each in self._refills if each[0] == report.step]
        for role in dict.fromkeys(role for _, role, _, _ in mine):
            changes = [(left, joined) for _, of, left, joined in mine if of == role]
            left, joined = changes[0][0], changes[-1][1]
            if left != joined:
                told = {"teachers_left": [left] if left else [], "teachers_joined": [joined] if joined else []}
                teachers[role] = teachers.get(role, TeacherLedger()).model_copy(update=told)
        ledger = report.ledger.model_copy(update={"teachers": teachers})
        return report.model_copy(update={"ledger": ledger}) if mine else report

    def _note_resumed(self) -> None:
        data = {
            "from_step": self._from_step,
            "recorded_step": self._recorded_step,
            "largest_difference": self._largest_difference,
        }
        _log.info("run %s: resumed %s", self._run.id, data)
        note = Note(fence=self._lease.fence, kind="resumed", data=data)
        self._lease.heard(self._lease.report(lambda: self._client.runs.note(self._run.id, note)))
