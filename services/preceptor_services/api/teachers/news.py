"""What the runs that use a teacher are told of its endpoints."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from preceptor.wire.runs import RunState
from preceptor.wire.teachers import TeacherState
from preceptor_services.api.runs import history
from preceptor_services.api.teachers.states import state_of, users
from preceptor_services.db import models

UNENDED = (RunState.QUEUED.value, RunState.RUNNING.value, RunState.PAUSED.value)


def tell_users(
    session: Session,
    teacher: models.Teacher,
    endpoint: models.Endpoint,
    what: str,
    state: TeacherState | None,
    at: datetime,
) -> None:
    """Note in every unended run that may ask this teacher what became of one of its endpoints.

    `state`: the endpoint's from now on; None: it is gone. Under each run's lock, so always in the same order.
    """
    message = f"Teacher {teacher.name}: the endpoint {endpoint.url} {what}"[:2000]
    data = {
        "message": message,
        "teacher": teacher.name,
        "endpoint": endpoint.url,
        "state": "gone" if state is None else state.value,
    }
    for run_id in users(session, [teacher.name], UNENDED).get(teacher.name, ()):
        history.tell(session, run_id, [("note", data)], at)


def put(
    session: Session,
    teacher: models.Teacher,
    endpoint: models.Endpoint,
    found: TeacherState,
    trouble: str | None,
    at: datetime,
    *,
    drained: bool | None = None,
) -> bool:
    """Record what was found at an endpoint; runs are told where that changes what it is to them."""
    before = state_of(endpoint)
    endpoint.state, endpoint.trouble = found.value, trouble
    if drained is not None:
        endpoint.drained = drained
    after = state_of(endpoint)
    if before is after:
        return False
    teacher.updated_at = at
    session.flush()
    words = {
        TeacherState.READY: "is ready again.",
        TeacherState.DRAINING: "answers again, and is being drained.",
        TeacherState.DEGRADED: f"is not what it was: {trouble}",
        TeacherState.DOWN: f"is down: {trouble}",
    }
    tell_users(session, teacher, endpoint, words[after], after, at)
    return True
