"""Who may advance a run, and what becomes of it where that worker gives it back or falls silent."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from preceptor.errors import Conflict, LeaseLost
from preceptor.wire import runs as wire
from preceptor_services.api.leasing import over, won
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history, pairs, refills
from preceptor_services.api.runs.roles import Roles, roles_of
from preceptor_services.api.runs.service import shown
from preceptor_services.api.sending import enqueue
from preceptor_services.api.teachers import service as teachers
from preceptor_services.api.teachers.states import addresses, endpoint_of
from preceptor_services.db import models
from preceptor_services.db.session import Unit

State = wire.RunState


def take(plane: Plane, unit: Unit, run_id: str, worker: str) -> wire.LeaseGrant:
    """Give a worker the right to advance a run. Raises Conflict where another has it, or there is nothing to do."""
    session, at = unit.session, plane.clock()
    table = models.Run
    until = at + timedelta(seconds=plane.settings.lease_seconds)
    wanted = table.cancel_requested.is_(False) & table.pause_requested.is_(False)
    expired = (table.state == State.RUNNING.value) & (table.lease_until <= at) & wanted
    before = history.get(session, run_id)
    lost_by = before.worker
    if won(session, table, run_id, table.state == State.QUEUED.value, worker, at, until):
        took_over = False
    elif won(session, table, run_id, expired, worker, at, until):
        took_over = True
    else:
        raise _why_not(session, run_id, at)
    run = session.get_one(table, run_id, populate_existing=True)
    if took_over:
        history.moved(session, run, State.RUNNING, State.QUEUED, f"the lease of {lost_by} ended", at)
    attempt = f"taken by {worker}" + (f", attempt {run.attempt}" if run.attempt > 1 else "")
    history.moved(session, run, State.QUEUED, State.RUNNING, attempt, at, worker=worker, attempt=run.attempt)
    refills.taken_up(session, run, at)
    roles = roles_of(session, [run_id]).get(run_id, Roles())
    return wire.LeaseGrant(
        run=shown(run, roles),
        fence=run.fence,
        until=until,
        ttl_seconds=plane.settings.lease_seconds,
        teachers={role: _endpoint(session, run_id, role, name) for role, name in roles.registered.items()},
        fallbacks={role: _endpoint(session, run_id, role, name) for role, name in roles.fallbacks.items()},
        recorded_step=run.step,
        pair=pairs.grant_of(session, run_id),
    )


def _why_not(session: Session, run_id: str, at: datetime) -> Conflict:
    run = session.get_one(models.Run, run_id, populate_existing=True)
    if run.state != State.RUNNING.value:
        return Conflict(f"Run {run_id} is {run.state}; there is nothing to advance.", field="state")
    if run.lease_until is not None and run.lease_until <= at and (run.cancel_requested or run.pause_requested):
        return Conflict(f"Run {run_id} is being {'cancelled' if run.cancel_requested else 'paused'}.", field="state")
    return Conflict(f"Run {run_id} is held by {run.worker} until {run.lease_until}.", field="worker")


def _endpoint(session: Session, run_id: str, role: str, name: str) -> wire.TeacherEndpoint:
    teacher = teachers.find(session, name)
    endpoint = None if teacher is None else endpoint_of(teacher)
    if endpoint is None:
        raise Conflict(f"Run {run_id} needs teacher {name} as {role}, which is not registered any more.")
    return endpoint


def held(session: Session, run_id: str, fence: int) -> models.Run:
    """The run, locked, for the worker that holds its lease. Raises LeaseLost for any other.

    A lease that ran out is still good while nobody has taken the run away: the number, not the clock, decides.
    """
    run = history.get(session, run_id, lock=True)
    if run.state != State.RUNNING.value or run.fence != fence:
        raise lost(run, fence)
    return run


def lost(run: models.Run, fence: int) -> LeaseLost:
    """The error for a report with a fencing number that is not the run's."""
    now = f"is {run.state}" if run.state != State.RUNNING.value else f"is held by {run.worker} (fence {run.fence})"
    return LeaseLost(
        f"The lease with fence {fence} on run {run.id} has ended: the run {now}.",
        field="fence",
        remedy="Stop, and report nothing more.",
    )


def beat(plane: Plane, session: Session, run: models.Run, at: datetime) -> wire.LeaseStatus:
    """Let the lease last; says what the worker is to do, and where its teachers answer now."""
    run.lease_until = until = at + timedelta(seconds=plane.settings.lease_seconds)
    refilled = refills.since_taken(session, run)
    return wire.LeaseStatus(
        until=until,
        cancel=run.cancel_requested,
        pause=run.pause_requested,
        teachers={role: each for role, each in addresses(session, run.id).items() if role not in refilled},
        refilled=refilled,
    )


def release(plane: Plane, unit: Unit, run_id: str, fence: int) -> None:
    """Take the lease back from a worker that gives it up. Doing it again changes nothing."""
    session, at = unit.session, plane.clock()
    run = history.get(session, run_id, lock=True)
    ended = (State.QUEUED.value, State.PAUSED.value, State.CANCELLED.value)
    if run.state in ended and run.fence == fence and run.lease_until is None:
        return
    run = held(session, run_id, fence)
    _end(plane, unit, run, f"given back by {run.worker}", at)


def expire(plane: Plane, unit: Unit, run_id: str) -> bool:
    """End a lease that has run out. False where somebody was faster."""
    at = plane.clock()
    run = history.get(unit.session, run_id, lock=True)
    if not over(run, at):
        return False
    _end(plane, unit, run, f"the lease of {run.worker} ended", at)
    return True


def _end(plane: Plane, unit: Unit, run: models.Run, reason: str, at: datetime) -> None:
    run.lease_until, run.updated_at = None, at
    if run.pause_requested and not run.cancel_requested:
        run.state, run.pause_requested = State.PAUSED.value, False
        history.moved(unit.session, run, State.RUNNING, State.PAUSED, f"paused; {reason}", at)
        pairs.leave(unit.session, run, at)
        unit.session.flush()
        return
    run.state, run.pause_requested = State.QUEUED.value, False
    history.moved(unit.session, run, State.RUNNING, State.QUEUED, reason, at)
    if run.cancel_requested:
        run.state, run.finished_at = State.CANCELLED.value, at
        history.moved(unit.session, run, State.QUEUED, State.CANCELLED, "cancelled while no worker had it", at)
        pairs.leave(unit.session, run, at)
        unit.session.flush()
    else:
        enqueue(plane, unit, run)
