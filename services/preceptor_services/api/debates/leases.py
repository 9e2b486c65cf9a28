"""Who may hold a debate, and what that worker says of it.

What was said is recorded turn by turn under that number. The first record of a turn stays, and whoever takes the debate
up goes on after it, so that no answer is counted twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, LeaseLost
from preceptor.wire import debate_reports
from preceptor.wire import debates as wire
from preceptor.wire.runs import LeaseStatus, TeacherEndpoint
from preceptor_services.api.debates import checks
from preceptor_services.api.debates.service import get, shown, turns_of
from preceptor_services.api.leasing import over, won
from preceptor_services.api.plane import Plane
from preceptor_services.api.sending import enqueue
from preceptor_services.api.teachers import service as teachers
from preceptor_services.api.teachers.states import endpoint_of
from preceptor_services.db import models
from preceptor_services.db.session import Unit

State = wire.DebateState


def take(plane: Plane, unit: Unit, debate_id: str, worker: str) -> debate_reports.DebateGrant:
    """Give a worker the right to hold a debate. Raises Conflict where another has it, or there is nothing to do."""
    session, at = unit.session, plane.clock()
    get(session, debate_id)
    table = models.Debate
    until = at + timedelta(seconds=plane.settings.lease_seconds)
    expired = (table.state == State.RUNNING.value) & (table.lease_until <= at) & table.cancel_requested.is_(False)
    took = won(session, table, debate_id, (table.state == State.QUEUED.value) | expired, worker, at, until)
    debate = session.get_one(table, debate_id, populate_existing=True)
    if not took:
        by = f", held by {debate.worker} until {debate.lease_until}" if debate.state == State.RUNNING.value else ""
        raise Conflict(f"Debate {debate_id} is {debate.state}{by}; there is nothing to take.", field="state")
    assert debate.started_at is not None, "it was just taken"
    return debate_reports.DebateGrant(
        debate=shown(debate, turns_of(session, debate)),
        fence=debate.fence,
        until=until,
        ttl_seconds=plane.settings.lease_seconds,
        elapsed_seconds=(at - debate.started_at).total_seconds(),
        teachers=_endpoints(session, debate),
    )


def _endpoints(session: Session, debate: models.Debate) -> dict[str, TeacherEndpoint]:
    """Whom to ask; a debater that is not registered any more is absent."""
    found = {name: teachers.find(session, name) for name in debate.wish.teachers}
    reached = {name: None if each is None else endpoint_of(each) for name, each in found.items()}
    return {name: each for name, each in reached.items() if each is not None}


def held(session: Session, debate_id: str, fence: int) -> models.Debate:
    """The debate, locked, for the worker that holds its lease. Raises LeaseLost for any other."""
    debate = get(session, debate_id, lock=True)
    if debate.state != State.RUNNING.value or debate.fence != fence:
        now = f"is {debate.state}, at fence {debate.fence}"
        raise LeaseLost(
            f"The lease with fence {fence} on debate {debate_id} has ended: the debate {now}.",
            field="fence",
            remedy="Stop, and report nothing more.",
        )
    return debate


def beat(plane: Plane, unit: Unit, debate_id: str, fence: int) -> LeaseStatus:
    """The worker is alive."""
    return _beat(plane, held(unit.session, debate_id, fence))


def _beat(plane: Plane, debate: models.Debate) -> LeaseStatus:
    debate.lease_until = until = plane.clock() + timedelta(seconds=plane.settings.lease_seconds)
    return LeaseStatus(until=until, cancel=debate.cancel_requested)


def record(plane: Plane, unit: Unit, debate_id: str, report: debate_reports.TurnsReport) -> LeaseStatus:
    """Record turns. One that is recorded already stays as it is."""
    session, at = unit.session, plane.clock()
    debate = held(session, debate_id, report.fence)
    known = {(turn.round, turn.debater) for turn in turns_of(session, debate)}
    for index, turn in enumerate(report.turns):
        if turn.debater not in debate.wish.teachers:
            field = f"turns.{index}.debater"
            raise Invalid(f"{field}: {turn.debater} does not take part in debate {debate_id}.", field=field)
        if turn.round > debate.template.template.rounds:
            field = f"turns.{index}.round"
            raise Invalid(f"{field}: the debate has {debate.template.template.rounds} rounds.", field=field)
        if (turn.round, turn.debater) in known:
            continue
        known.add((turn.round, turn.debater))
        where = {"debate_id": debate_id, "round": turn.round, "debater": turn.debater}
        session.add(models.DebateTurn(**where, at=at, fence=report.fence, turn=turn))
        debate.updated_at = at
    status = _beat(plane, debate)
    session.flush()
    return status


def finish(plane: Plane, unit: Unit, debate_id: str, report: debate_reports.DebateFinish) -> wire.Debate:
    """End the debate and the lease."""
    session, at = unit.session, plane.clock()
    debate = get(session, debate_id, lock=True)
    if debate.fence == report.fence and debate.state == report.state.value:
        return shown(debate, turns_of(session, debate))  # the answer was lost, and the worker asks again
    debate = held(session, debate_id, report.fence)
    if report.state is State.FAILED and report.error is None:
        raise Invalid("error: a debate that failed needs one.", field="error", remedy="Say why it failed.")
    if report.state is State.SUCCEEDED and report.result is None:
        raise Invalid("result: a debate that succeeded needs one.", field="result", remedy="Say what came of it.")
    debate.state, debate.lease_until, debate.updated_at, debate.finished_at = report.state.value, None, at, at
    debate.error, debate.result, debate.cancel_requested = report.error, report.result, False
    turns = turns_of(session, debate)
    if report.state is not State.SUCCEEDED or not _may_be_given_again(session, debate, turns):
        debate.cache_key = None
    session.flush()
    return shown(debate, turns)


def _may_be_given_again(session: Session, debate: models.Debate, turns: tuple[wire.DebateTurn, ...]) -> bool:
    """Whether it would go the same way another time, and all are still the teachers that they were when it was
    submitted."""
    found = {name: teachers.find(session, name) for name in debate.wish.teachers}
    voices = {name: wire.Voice.of(each.card) for name, each in found.items() if each is not None and each.card}
    if debate.result is None or len(voices) < len(found):
        return False
    known = checks.cache_key(debate.wish, debate.template, voices)
    return known == debate.cache_key and checks.lasting(debate.result, turns, voices)


def release(plane: Plane, unit: Unit, debate_id: str, fence: int) -> None:
    """Take the lease back from a worker that gives it up. Doing it again changes nothing."""
    debate = get(unit.session, debate_id, lock=True)
    if debate.state in (State.QUEUED.value, State.CANCELLED.value) and debate.fence == fence:
        return
    _end(plane, unit, held(unit.session, debate_id, fence), plane.clock())


def expire(plane: Plane, unit: Unit, debate_id: str) -> bool:
    """End a lease that has run out. False where somebody was faster."""
    at = plane.clock()
    debate = get(unit.session, debate_id, lock=True)
    if not over(debate, at):
        return False
    _end(plane, unit, debate, at)
    return True


def _end(plane: Plane, unit: Unit, debate: models.Debate, at: datetime) -> None:
    debate.lease_until, debate.updated_at = None, at
    if debate.cancel_requested:
        debate.state, debate.finished_at = State.CANCELLED.value, at
        unit.session.flush()
        return
    debate.state = State.QUEUED.value
    enqueue(plane, unit, debate)
