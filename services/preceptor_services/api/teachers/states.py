"""What follows from a teacher's endpoints: how it is shown, whether runs may use it, where they are to ask.

A run asks the endpoints that are ready. Where none is, it asks those that are being drained, then those in which the
last look found something wrong, and where none answers at all it goes on trying every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.wire.runs import ReplicaAddress
from preceptor.wire.teachers import Replica, Teacher, TeacherKind, TeacherState
from preceptor_services.db import models

BEST_FIRST = (TeacherState.READY, TeacherState.DRAINING, TeacherState.DEGRADED, TeacherState.DOWN)


def state_of(endpoint: models.Endpoint) -> TeacherState:
    """One endpoint's state."""
    found = TeacherState(endpoint.state)
    return TeacherState.DRAINING if endpoint.drained and found is not TeacherState.DOWN else found


def teacher_state(teacher: models.Teacher) -> TeacherState:
    """Ready while one endpoint is; draining where it is drained, whatever they are."""
    if teacher.drained:
        return TeacherState.DRAINING
    states = {state_of(each) for each in teacher.endpoints}
    order = (TeacherState.READY, TeacherState.DEGRADED, TeacherState.DRAINING)
    return next((each for each in order if each in states), TeacherState.DOWN)


def shown(teacher: models.Teacher) -> Teacher:
    """A teacher as it travels."""
    first = teacher.endpoints[0]
    return Teacher(
        id=teacher.id,
        name=teacher.name,
        url=first.url,
        kind=TeacherKind(teacher.kind),
        key_env=first.key_env,
        state=teacher_state(teacher),
        card=teacher.card,
        probe=first.probe,
        endpoints=tuple(replica(each) for each in teacher.endpoints),
        created_at=teacher.created_at,
        updated_at=teacher.updated_at,
    )


def replica(endpoint: models.Endpoint) -> Replica:
    """An endpoint as it travels."""
    return Replica(
        id=endpoint.id,
        url=endpoint.url,
        key_env=endpoint.key_env,
        state=state_of(endpoint),
        trouble=endpoint.trouble,
        probe=endpoint.probe,
        created_at=endpoint.created_at,
    )


def in_use(teacher: models.Teacher) -> tuple[ReplicaAddress, ...]:
    """Where runs are to ask, the first registered first. Never empty."""
    for wanted in BEST_FIRST:
        found = [each for each in teacher.endpoints if state_of(each) is wanted]
        if found:
            return tuple(ReplicaAddress(url=each.url, key_env=each.key_env) for each in found)
    raise AssertionError(f"teacher {teacher.name} has no endpoint")


def addresses(session: Session, run_id: str) -> dict[str, tuple[ReplicaAddress, ...]]:
    """Where a run's worker is to ask, by role. A role whose teacher is gone is absent."""
    asked, table = models.RunTeacher, models.Teacher
    query = select(asked.role, table).join(table, table.name == asked.teacher).where(asked.run_id == run_id)
    return {role: in_use(teacher) for role, teacher in session.execute(query.order_by(asked.role))}


def used(session: Session, states: Sequence[str]) -> set[str]:
    """Names of the teachers that a run in one of these states may ask."""
    runs, asked = models.Run, models.RunTeacher
    query = select(asked.teacher, asked.fallback).join(runs, runs.id == asked.run_id).where(runs.state.in_(states))
    return {name for pair in session.execute(query.distinct()) for name in pair if name is not None}


def users(session: Session, names: Iterable[str], states: Sequence[str]) -> dict[str, list[str]]:
    """The runs in these states that a teacher may be asked by, as a role's own or its fallback, by teacher."""
    runs, asked, wanted = models.Run, models.RunTeacher, sorted(set(names))
    query = select(asked.run_id, asked.teacher, asked.fallback).join(runs, runs.id == asked.run_id)
    query = query.where(runs.state.in_(states), asked.teacher.in_(wanted) | asked.fallback.in_(wanted))
    found: dict[str, set[str]] = {}
    for run_id, teacher, fallback in session.execute(query):
        for name in {teacher, fallback} & set(wanted):
            found.setdefault(name, set()).add(run_id)
    return {name: sorted(run_ids) for name, run_ids in found.items()}
