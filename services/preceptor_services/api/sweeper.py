"""What the control plane does by itself, every few seconds."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from sqlalchemy import or_, select
from starlette.concurrency import run_in_threadpool

from preceptor_services.api.debates import leases as debate_leases
from preceptor_services.api.keys import service as keys
from preceptor_services.api.leasing import all_over
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import leases
from preceptor_services.api.sending import enqueue
from preceptor_services.db import models
from preceptor_services.db.models.jobs import QUEUED

log = logging.getLogger(__name__)

PART_DAYS = 7
"""After how long an upload that nobody goes on with is forgotten."""
BATCH = 100


async def sweep_for_ever(plane: Plane) -> None:
    """Wait, sweep, wait. A sweep that fails is logged and not the last."""
    while True:
        await asyncio.sleep(plane.settings.sweep_seconds)
        try:
            await run_in_threadpool(sweep, plane)
        except Exception:
            log.exception("A sweep failed; the next one is in %.0f s", plane.settings.sweep_seconds)


def sweep(plane: Plane) -> None:
    """One round."""
    end_leases(plane)
    send_again(plane)
    write_key_uses(plane)
    plane.blobs.drop_parts(older_than=(plane.clock() - timedelta(days=PART_DAYS)).timestamp())


def end_leases(plane: Plane) -> None:
    """Queue runs and debates again whose worker is silent."""
    for table, expire in ((models.Run, leases.expire), (models.Debate, debate_leases.expire)):
        with plane.database.unit(writes=False) as unit:
            due = all_over(unit.session, table, plane.clock())
        for each in due:
            with plane.database.unit(writes=True) as unit:
                unit.after_commit(plane.bell.ring)
                if expire(plane, unit, each):
                    log.warning("The lease on %s ended; it is queued again", each)


def send_again(plane: Plane) -> None:
    """Send messages that the broker did not take, or that it may have lost: twice does no harm, never does."""
    for table in (models.Run, models.Debate):
        for job_id in _waiting(plane, table):
            with plane.database.unit(writes=True) as unit:
                job = unit.session.get_one(table, job_id, with_for_update=True)
                if job.state == QUEUED:
                    enqueue(plane, unit, job)


def _waiting(plane: Plane, table: type[models.Job]) -> list[str]:
    """What is queued and was not sent, or long ago."""
    long_ago = plane.clock() - timedelta(seconds=plane.settings.requeue_seconds)
    late = or_(table.enqueued_at.is_(None), table.enqueued_at <= long_ago)
    query = select(table.id).where(table.state == QUEUED, late)
    with plane.database.unit(writes=False) as unit:
        return list(unit.session.scalars(query.order_by(table.created_at).limit(BATCH)))


def write_key_uses(plane: Plane) -> None:
    """Write down when keys were last seen."""
    if uses := plane.uses.take():
        with plane.database.unit(writes=True) as unit:
            keys.write_uses(unit.session, uses)
