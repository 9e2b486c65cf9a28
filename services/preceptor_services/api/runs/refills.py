"""Teachers of a run that others replace while it goes on: what its worker is told, and what becomes known of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from preceptor.wire.runs import StepReport, TeacherEndpoint
from preceptor_services.api.runs import history
from preceptor_services.api.runs.roles import Roles, roles_of
from preceptor_services.api.teachers import service as teachers
from preceptor_services.api.teachers.states import endpoint_of
from preceptor_services.db import models

NOBODY = "nobody"


def since_taken(session: Session, run: models.Run) -> dict[str, TeacherEndpoint | None]:
    """Who fills the roles now that were refilled since the run's lease was taken; None: nobody. A role whose teacher is
    gone is absent."""
    table = models.Refill
    query = select(table.role).where(table.run_id == run.id, table.fence == run.fence).distinct()
    refilled = list(session.scalars(query))  # as good as always nothing, and asked with every heartbeat
    if not refilled:
        return {}
    now = roles_of(session, [run.id]).get(run.id, Roles()).teachers
    found: dict[str, TeacherEndpoint | None] = {}
    for role in refilled:
        name = now.get(role)
        teacher = None if name is None else teachers.find(session, name)
        endpoint = None if teacher is None else endpoint_of(teacher)
        if name is None or endpoint is not None:
            found[role] = endpoint
    return found


def recorded(session: Session, run: models.Run, report: StepReport) -> None:
    """Keep from which step on a teacher was asked: the one whose ledger says that it joined, or that nobody did."""
    for role, ledger in report.ledger.teachers.items():
        if not ledger.teachers_joined and not ledger.teachers_left:
            continue
        joined = ledger.teachers_joined[0] if ledger.teachers_joined else None
        waiting = _unasked(session, run.id, role)
        last = next((number for number, each in enumerate(waiting) if each.joined == joined), None)
        if last is not None:
            for each in waiting[: last + 1]:
                each.step = report.step


def taken_up(session: Session, run: models.Run, at: datetime) -> None:
    """A worker goes on from the last checkpoint: with whoever fills the roles now, also in steps that it computes
    again. Where they were recorded with another teacher, whoever watches is told."""
    first, table = (run.checkpoint_step or 0) + 1, models.Refill
    if first > run.training.steps:
        return
    later = or_(table.step.is_(None), table.step > first)
    found = session.scalars(select(table).where(table.run_id == run.id, later).order_by(table.number)).all()
    for role in dict.fromkeys(each.role for each in found):
        mine = [each for each in found if each.role == role]
        if first <= run.step:
            _tell_again(session, run, mine, first, at)
        for each in mine:
            each.step = first
    session.flush()


def _tell_again(session: Session, run: models.Run, mine: Sequence[models.Refill], first: int, at: datetime) -> None:
    last = min(mine[-1].step - 1 if mine[-1].step else run.step, run.step)
    role, now = mine[0].role, mine[-1].joined or NOBODY
    message = (
        f"Steps {first} to {last} are computed again with {now} as {role}; their ledgers and metrics are those of the "
        "first time, when another teacher was asked."
    )
    history.tell(session, run.id, [("note", {"message": message, "role": role})], at)


def _unasked(session: Session, run_id: str, role: str) -> Sequence[models.Refill]:
    table = models.Refill
    query = select(table).where(table.run_id == run_id, table.role == role, table.step.is_(None))
    return session.scalars(query.order_by(table.number)).all()
