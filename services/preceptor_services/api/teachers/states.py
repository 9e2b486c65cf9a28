"""What follows from a teacher's endpoints: how it is shown, whether runs may use it, where they are to ask.

A run asks the endpoints that are ready. Where none is, it asks those that are being drained, then those in which the
last look found something wrong, and where none answers at all it goes on trying every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.teachers import Replica, Teacher, TeacherKind, TeacherState
from preceptor_services.db import models

BEST_FIRST = (TeacherState.READY, TeacherState.DRAINING, TeacherState.DEGRADED, TeacherState.DOWN)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one endpoint is, and whether to ask there."""

    url: str
    key_env: str | None
    state: TeacherState


def state_of(endpoint: models.Endpoint) -> TeacherState:
    """One endpoint's state."""
    return _state(endpoint.state, endpoint.drained)


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


def places(teacher: models.Teacher) -> list[Place]:
    """A teacher's endpoints, the first registered first."""
    return [Place(each.url, each.key_env, state_of(each)) for each in teacher.endpoints]


def in_use(places: Sequence[Place]) -> tuple[ReplicaAddress, ...]:
    """Where runs are to ask, in the order given. Empty only where there is no endpoint."""
    best = min((BEST_FIRST.index(each.state) for each in places), default=0)
    found = (each for each in places if each.state is BEST_FIRST[best])
    return tuple(ReplicaAddress(url=each.url, key_env=each.key_env) for each in found)


def endpoint_of(teacher: models.Teacher) -> TeacherEndpoint | None:
    """How a worker reaches a teacher; None: it was never probed."""
    if teacher.card is None:
        return None
    first, *others = in_use(places(teacher))
    return TeacherEndpoint(
        name=teacher.name,
        url=first.url,
        kind=TeacherKind(teacher.kind),
        key_env=first.key_env,
        replicas=tuple(others),
        card=teacher.card,
    )


def addresses(session: Session, run_id: str) -> dict[str, tuple[ReplicaAddress, ...]]:
    """Where a run's worker is to ask, by role. A role whose teacher is gone is absent."""
    asked, table, place = models.RunTeacher, models.Teacher, models.Endpoint
    # Columns, not rows: it is asked with every heartbeat, and cards and probes are long.
    query = select(asked.role, place.url, place.key_env, place.state, place.drained).where(asked.run_id == run_id)
    query = query.join(table, table.name == asked.teacher).join(place, place.teacher_id == table.id)
    found: dict[str, list[Place]] = {}
    for role, url, key_env, state, drained in session.execute(query.order_by(asked.role, place.created_at, place.id)):
        found.setdefault(role, []).append(Place(url, key_env, _state(state, drained)))
    return {role: in_use(places) for role, places in found.items()}


def used(session: Session, states: Sequence[str]) -> set[str]:
    """Names of the teachers that a run in one of these states may ask."""
    runs, asked = models.Run, models.RunTeacher
    query = select(asked.teacher, asked.fallback).join(runs, runs.id == asked.run_id).where(runs.state.in_(states))
    found = {name for pair in session.execute(query.distinct()) for name in pair if name is not None}
    return found | {name for _, name in _leaving(session, states)}


def users(session: Session, names: Iterable[str], states: Sequence[str]) -> dict[str, list[str]]:
    """The runs in these states that a teacher may be asked by, as a role's own or its fallback, by teacher."""
    runs, asked, wanted = models.Run, models.RunTeacher, sorted(set(names))
    query = select(asked.run_id, asked.teacher, asked.fallback).join(runs, runs.id == asked.run_id)
    query = query.where(runs.state.in_(states), asked.teacher.in_(wanted) | asked.fallback.in_(wanted))
    found: dict[str, set[str]] = {}
    for run_id, teacher, fallback in session.execute(query):
        for name in {teacher, fallback} & set(wanted):
            found.setdefault(name, set()).add(run_id)
    for run_id, name in _leaving(session, states):
        if name in wanted:
            found.setdefault(name, set()).add(run_id)
    return {name: sorted(run_ids) for name, run_ids in found.items()}


def _leaving(session: Session, states: Sequence[str]) -> list[tuple[str, str]]:
    """Runs in these states, and the teachers that were replaced in them and are asked until the worker has followed."""
    runs, table = models.Run, models.Refill
    query = select(table.run_id, table.left).join(runs, runs.id == table.run_id)
    query = query.where(runs.state.in_(states), runs.lease_until.is_not(None), table.fence == runs.fence)
    query = query.where(table.step.is_(None), table.left.is_not(None))
    return [(run_id, str(name)) for run_id, name in session.execute(query)]


def _state(found: str, drained: bool) -> TeacherState:
    state = TeacherState(found)
    return TeacherState.DRAINING if drained and state is not TeacherState.DOWN else state
