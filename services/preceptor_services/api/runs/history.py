"""What happened to a run: every change of state is a row, and whoever watches is told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from preceptor.errors import NotFound
from preceptor.wire.runs import Event, EventKind, RunState
from preceptor_services.db import models


def get(session: Session, run_id: str, *, lock: bool = False) -> models.Run:
    """A run; with `lock`, as it is now and until the unit of work ends. Raises NotFound."""
    run = session.get(models.Run, run_id, with_for_update=lock or None, populate_existing=lock)
    if run is None:
        raise NotFound(f"There is no run {run_id[:100]!r}.", remedy="GET /v1/runs lists them.")
    return run


def moved(
    session: Session, run: models.Run, come_from: RunState | None, to: RunState, reason: str, at: datetime, **more: Any
) -> None:
    """Record a change of state. The run's own row is changed by whoever calls."""
    session.add(
        models.Transition(
            run_id=run.id,
            from_state=None if come_from is None else come_from.value,
            to_state=to.value,
            at=at,
            reason=reason[:1000],
            fence=run.fence,
        )
    )
    data = {"from": None if come_from is None else come_from.value, "to": to.value, "reason": reason[:1000], **more}
    tell(session, run.id, [("state", data)], at)


def tell(session: Session, run_id: str, news: Sequence[tuple[EventKind, dict[str, Any]]], at: datetime) -> None:
    """Add to a run's events. Numbers are taken under the run's lock: whoever reads number n sees all before it."""
    if not news:
        return
    table = models.Run
    counted = update(table).where(table.id == run_id).values(last_event=table.last_event + len(news))
    last = session.execute(
        counted.returning(table.last_event), execution_options={"synchronize_session": False}
    ).scalar_one()
    for number, (kind, data) in enumerate(news, last - len(news) + 1):
        session.add(models.Event(run_id=run_id, number=number, at=at, kind=kind, data=data))
    session.flush()


def events(session: Session, run_id: str, after: int, limit: int) -> tuple[list[Event], bool]:
    """The next events, and whether these are all that there will be unless the run is resumed."""
    run = get(session, run_id)
    table = models.Event
    query = select(table).where(table.run_id == run_id, table.number > after).order_by(table.number).limit(limit)
    found = [
        Event(id=row.number, run_id=run_id, at=row.at, kind=row.kind, data=row.data)  # pyright: ignore[reportArgumentType]
        for row in session.scalars(query)
    ]
    last = found[-1].id if found else after
    return found, RunState(run.state).ended and last >= run.last_event
