"""The right to do a job. One worker at a time, for as long as its heart beats, under a number that only grows.

A lease is taken by one UPDATE that says in its WHERE what must still be true; of two workers that try at once, one
changes a row and the other none. Whatever a worker reports carries its fencing number, and a report with an old one
changes nothing: a worker that was believed dead can do no harm when it wakes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, func, select, update
from sqlalchemy.orm import Session

from preceptor_services.db.models.jobs import RUNNING, Job


def won(
    session: Session,
    table: type[Job],
    job_id: str,
    still: ColumnElement[bool],
    worker: str,
    at: datetime,
    until: datetime,
) -> bool:
    """Whether the worker has the job now: it was `still` as it is to be."""
    taken: dict[Any, Any] = {
        table.state: RUNNING,
        table.worker: worker,
        table.fence: table.fence + 1,
        table.attempt: table.attempt + 1,
        table.lease_until: until,
        table.started_at: func.coalesce(table.started_at, at),
        table.updated_at: at,
    }
    query = update(table).where(table.id == job_id, still).values(taken)
    result = session.execute(query, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def over(job: Job, at: datetime) -> bool:
    """Whether its lease has run out, and nobody has ended it."""
    return job.state == RUNNING and job.lease_until is not None and job.lease_until <= at


def all_over(session: Session, table: type[Job], at: datetime) -> list[str]:
    """The jobs of which that is so, by when theirs ran out."""
    query = select(table.id).where(table.state == RUNNING, table.lease_until <= at)
    return list(session.scalars(query.order_by(table.lease_until)))
