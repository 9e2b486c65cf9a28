"""What a worker reports under its lease. A report is all or nothing, and may be sent again when its answer was lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid
from preceptor.wire import runs as wire
from preceptor.wire.artifacts import ArtifactKind
from preceptor_services.api.artifacts.service import forget, ready_facts
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history, leases, pairs, refills
from preceptor_services.api.runs.roles import Roles, roles_of
from preceptor_services.api.runs.service import shown
from preceptor_services.db import models
from preceptor_services.db.columns import plain
from preceptor_services.db.session import Unit

CHECKPOINTS_KEPT = 2
"""How many of a run's checkpoints are kept: the newest, and one more in case that one turns out to be no good."""

State = wire.RunState
News = list[tuple[wire.EventKind, dict[str, Any]]]


def steps(plane: Plane, unit: Unit, run_id: str, report: wire.StepsReport) -> wire.LeaseStatus:
    """Record steps, samples and evaluations.

    A step that is recorded already is a replay: after a kill, the worker computes the steps since its checkpoint again.
    It is neither stored nor told twice. A step that would leave a gap is refused.
    """
    session, at = unit.session, plane.clock()
    run = leases.held(session, run_id, report.fence)
    news: News = _steps(session, run, report.steps, report.fence, at)
    _samples(session, run, report.samples)
    news += _evaluations(session, run_id, report.evaluations, at)
    if news:
        run.updated_at = at
    status = leases.beat(plane, session, run, at)
    session.flush()
    history.tell(session, run_id, news, at)
    return status


def _steps(session: Session, run: models.Run, reports: Sequence[wire.StepReport], fence: int, at: datetime) -> News:
    news: News = []
    for index, each in enumerate(reports):
        if each.step <= run.step:
            continue
        if each.step > run.training.steps:
            raise Invalid(
                f"steps.{index}.step: the run has {run.training.steps} steps; {each.step} is beyond them.",
                field=f"steps.{index}.step",
            )
        if each.step != run.step + 1:
            raise Conflict(
                f"steps.{index}.step: step {each.step} would leave a gap; {run.step} is the last one recorded.",
                field=f"steps.{index}.step",
                remedy=f"Report step {run.step + 1} first.",
            )
        session.add(models.Step(run_id=run.id, step=each.step, at=at, fence=fence, report=each))
        run.step = each.step
        refills.recorded(session, run, each)
        news.append(("step", plain(each)))
    session.flush()
    return news


def _samples(session: Session, run: models.Run, samples: Sequence[wire.Sample]) -> None:
    by_step: dict[int, list[wire.Sample]] = {}
    for index, each in enumerate(samples):
        if each.step > run.step:
            raise Conflict(
                f"samples.{index}.step: step {each.step} is not recorded; {run.step} is the last one.",
                field=f"samples.{index}.step",
                remedy="Report the step first, or with its samples.",
            )
        by_step.setdefault(each.step, []).append(each)
    table = models.Sample
    held = set(session.scalars(select(table.step).where(table.run_id == run.id, table.step.in_(by_step)).distinct()))
    for step in sorted(by_step.keys() - held):
        for number, sample in enumerate(by_step[step]):
            session.add(table(run_id=run.id, step=step, number=number, sample=sample))


def _evaluations(session: Session, run_id: str, evaluations: Sequence[wire.Evaluation], at: datetime) -> News:
    news: News = []
    for each in evaluations:
        if session.get(models.Evaluation, (run_id, each.step)) is not None:
            continue
        session.add(models.Evaluation(run_id=run_id, step=each.step, at=at, evaluation=each))
        session.flush()
        told = plain(each)
        del told["hits"]
        news.append(("evaluation", told))
    return news


def heartbeat(plane: Plane, unit: Unit, run_id: str, fence: int) -> wire.LeaseStatus:
    """The worker is alive."""
    return leases.beat(plane, unit.session, leases.held(unit.session, run_id, fence), plane.clock())


def note(plane: Plane, unit: Unit, run_id: str, note: wire.Note) -> wire.LeaseStatus:
    """Tell whoever watches the run something."""
    session, at = unit.session, plane.clock()
    run = leases.held(session, run_id, note.fence)
    status = leases.beat(plane, session, run, at)
    session.flush()
    history.tell(session, run_id, [(note.kind, plain(note)["data"])], at)
    return status


def checkpoint(plane: Plane, unit: Unit, run_id: str, report: wire.CheckpointReport) -> wire.LeaseStatus:
    """Record where the run would go on from. An older one than is recorded is left aside."""
    session, at = unit.session, plane.clock()
    run = leases.held(session, run_id, report.fence)
    ready_facts(session, report.artifact, ArtifactKind.CHECKPOINT, "artifact")
    if report.step > run.step:
        raise Conflict(
            f"step: the checkpoint is of step {report.step}, and only {run.step} are recorded.",
            field="step",
            remedy="Report the steps first, or a resumed run would lack them.",
        )
    status = leases.beat(plane, session, run, at)
    newer = run.checkpoint_step is None or report.step >= run.checkpoint_step
    if newer and (run.checkpoint_step, run.checkpoint_artifact) != (report.step, report.artifact):
        run.checkpoint_step, run.checkpoint_artifact, run.updated_at = report.step, report.artifact, at
        session.flush()
        told = plain(wire.CheckpointRef(step=report.step, artifact=report.artifact))
        history.tell(session, run_id, [("checkpoint", told)], at)
        if old := _superseded(session, run_id):
            unit.after_commit(partial(forget, plane.database, plane.blobs, old))
    return status


def _superseded(session: Session, run_id: str) -> list[str]:
    """The checkpoints of a run that are older than the newest ones that are kept, as far as they are still there."""
    table = models.Event
    query = select(table.data).where(table.run_id == run_id, table.kind == "checkpoint").order_by(table.number.desc())
    told = list(dict.fromkeys(data["artifact"] for data in session.scalars(query)))
    there = models.Artifact.id
    return list(session.scalars(select(there).where(there.in_(told[CHECKPOINTS_KEPT:]))))


def finish(plane: Plane, unit: Unit, run_id: str, finish: wire.Finish) -> wire.Run:
    """End the run and the lease."""
    session, at = unit.session, plane.clock()
    run = history.get(session, run_id, lock=True)
    roles = roles_of(session, [run_id]).get(run_id, Roles())
    if run.fence == finish.fence and run.state == finish.state.value:
        return shown(run, roles)  # the answer was lost, and the worker asks again
    run = leases.held(session, run_id, finish.fence)
    _check_finish(session, finish)
    run.state, run.lease_until, run.updated_at, run.finished_at = finish.state.value, None, at, at
    run.error, run.result = finish.error, finish.result
    run.cancel_requested = run.pause_requested = False
    session.flush()
    if finish.error is not None:
        history.tell(session, run_id, [("error", plain(finish.error))], at)
    reason = finish.error.detail if finish.error is not None else f"finished by {run.worker}"
    history.moved(session, run, State.RUNNING, finish.state, reason, at)
    pairs.leave(session, run, at)
    return shown(run, roles)


def _check_finish(session: Session, finish: wire.Finish) -> None:
    if finish.state is State.FAILED and finish.error is None:
        raise Invalid("error: a run that failed needs one.", field="error", remedy="Say why it failed.")
    if finish.state is State.SUCCEEDED and finish.result is None:
        raise Invalid("result: a run that succeeded needs one.", field="result", remedy="Say what came of it.")
    if finish.result is not None and finish.result.model is not None:
        ready_facts(session, finish.result.model, ArtifactKind.MODEL, "result.model")
