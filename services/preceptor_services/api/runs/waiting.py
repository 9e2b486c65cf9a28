"""What a queued run waits for, in words. Idle workers tell the control plane nothing: what it knows is who is busy."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from preceptor.wire.runs import RunState
from preceptor.wire.waiting import MOST_BUSY, Busy, Waiting
from preceptor_services.api.runs import pairs
from preceptor_services.db import models


def waiting(session: Session, run: models.Run) -> Waiting | None:
    """Of a run that is queued; None: it is not."""
    if run.state != RunState.QUEUED.value:
        return None
    table, moved = models.Run, models.Transition
    queued = func.count().filter(table.state == RunState.QUEUED.value, table.created_at < run.created_at)
    last = select(func.max(moved.id)).where(moved.run_id == run.id, moved.to_state == RunState.QUEUED.value)
    since = session.scalar(select(moved.at).where(moved.id == last.scalar_subquery()))
    held = select(table.worker, table.id).where(table.state == RunState.RUNNING.value, table.worker.is_not(None))
    found = session.execute(held.order_by(table.started_at, table.id).limit(MOST_BUSY))
    busy = tuple(Busy(worker=worker, run=run_id) for worker, run_id in found if worker is not None)
    ahead = session.scalar(select(queued)) or 0
    pair = pairs.grant_of(session, run.id)
    return Waiting(
        since=since or run.created_at,
        sent=run.enqueued_at is not None,
        devices=run.training.devices,
        ahead=ahead,
        busy=busy,
        detail=_said(run, ahead, busy, None if pair is None else pair.peer_run),
    )


def _said(run: models.Run, ahead: int, busy: Sequence[Busy], peer: str | None) -> str:
    devices = run.training.devices
    wants = "a free worker" if devices == 1 else f"a free worker with {devices} devices"
    if run.enqueued_at is None:
        return (
            f"It waits for {wants}, and the broker has not taken the message for it, which is sent again every few "
            "seconds. Is the broker up?"
        )
    if not busy:
        return f"It waits for {wants}. No worker has a run now: is one started (`preceptor worker`)?"
    names = ", ".join(f"{each.worker} ({'the other side' if each.run == peer else each.run})" for each in busy)
    queue = "" if ahead == 0 else f" {ahead} queued before it {'is' if ahead == 1 else 'are'} still to be taken."
    two = " A side of a pair keeps its worker to the end: a pair takes two at a time." if peer is not None else ""
    return f"It waits for {wants}. Busy: {names}.{queue}{two} Start another worker, or wait until one is free."
