"""Messages that a job waits: one id, sent after the commit, and sent again by the sweeper where the queue was away."""

from __future__ import annotations

import logging
from functools import partial

from sqlalchemy import update

from preceptor_services.api.plane import Plane
from preceptor_services.db import models
from preceptor_services.db.models.jobs import QUEUED, Job
from preceptor_services.db.session import Unit
from preceptor_services.queue import QueueUnavailable

log = logging.getLogger(__name__)


def enqueue(plane: Plane, unit: Unit, job: Job) -> None:
    """Have a message for the job sent once this unit of work is committed."""
    job.enqueued_at = plane.clock()
    unit.session.flush()
    unit.after_commit(partial(_send, plane, type(job), job.id))


def _send(plane: Plane, table: type[Job], job_id: str) -> None:
    send = plane.queue.enqueue_run if table is models.Run else plane.queue.enqueue_debate
    try:
        send(job_id)
    except QueueUnavailable as error:
        # The job is queued all the same. The sweeper sends what has no date.
        log.warning("%s %s %s waits, and is sent again later.", error, table.__name__, job_id)
        with plane.database.unit(writes=True) as unit:
            waits = update(table).where(table.id == job_id, table.state == QUEUED)
            unit.session.execute(waits.values(enqueued_at=None))
