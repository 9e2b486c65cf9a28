"""The endpoints of a teacher: they join after a look at them, are drained, and leave."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound, PreceptorError
from preceptor.wire.teachers import Card, EndpointCreate, Teacher, TeacherState
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.plane import Plane
from preceptor_services.api.teachers import alike, looks, news, service
from preceptor_services.api.teachers.states import shown, state_of
from preceptor_services.db import models


def add(plane: Plane, name: str, wish: EndpointCreate) -> Teacher:
    """Look at one more endpoint, and have runs ask it too, those that are under way among them.

    Raises Invalid where what answers is not what it says, or not the same teacher.
    """
    with plane.database.unit(writes=False) as unit:
        teacher = service.get(unit.session, name)
        _check_may_join(teacher, wish.url)
        known = shown(teacher)
    card = known.card
    assert card is not None, "checked above"
    tokenizer = card.tokenizer
    try:
        found, probe = looks.look(plane, wish.url, wish.key_env, known.kind, name, card.model, tokenizer)
    except Invalid:
        raise
    except PreceptorError as error:
        raise service.silent(error) from error
    looks.refuse_liars(found, probe)
    if card.moves:
        card = _live(plane, known) or card
    said = alike.other_teacher(card, found, at_once=True) or alike.other_scores(card, found, known.probe, probe)
    if said is not None:
        remedy = "Serve the same model there in the same way, or register it as a teacher of its own."
        if card.moves and found.moves:
            remedy = "Load the same version of the same weights there first (`preceptor teacher load-weights`)."
        raise Invalid(f"url: this is not another endpoint of teacher {name}: {said}.", field="url", remedy=remedy)
    with plane.database.unit(writes=True) as unit:
        unit.after_commit(plane.bell.ring)
        at = plane.clock()
        teacher = service.get(unit.session, name, lock=True)
        _check_may_join(teacher, wish.url)
        endpoint = models.Endpoint(
            id=new_id("endpoint"),
            url=wish.url,
            key_env=wish.key_env,
            state=TeacherState.READY.value,
            drained=False,
            probe=probe,
            created_at=at,
        )
        teacher.endpoints.append(endpoint)
        teacher.updated_at = at
        unit.session.flush()
        news.tell_users(unit.session, teacher, endpoint, "joined.", TeacherState.READY, at)
        return shown(teacher)


def remove(session: Session, name: str, identifier: str, at: datetime) -> Teacher:
    """Have nobody ask an endpoint any more. Raises Conflict where it is the teacher's only one."""
    teacher, endpoint = _get(session, name, identifier)
    if len(teacher.endpoints) == 1:
        raise Conflict(
            f"{endpoint.url} is the only endpoint of teacher {name}.",
            remedy="Add another one first, or delete the teacher.",
        )
    news.tell_users(session, teacher, endpoint, "left.", None, at)
    teacher.endpoints.remove(endpoint)
    teacher.updated_at = at
    session.flush()
    return shown(teacher)


def drain(session: Session, name: str, identifier: str, at: datetime) -> Teacher:
    """Have runs leave an endpoint as soon as another one is ready; what was asked of it, it finishes."""
    teacher, endpoint = _get(session, name, identifier)
    before = state_of(endpoint)
    endpoint.drained = True
    if state_of(endpoint) is not before:
        teacher.updated_at = at
        session.flush()
        news.tell_users(session, teacher, endpoint, "is being drained.", TeacherState.DRAINING, at)
    return shown(teacher)


def undrain(plane: Plane, name: str, identifier: str) -> Teacher:
    """Have runs ask an endpoint again. It is looked at first."""
    with plane.database.unit(writes=False) as unit:
        teacher, endpoint = _get(unit.session, name, identifier)
        known, url, key_env = shown(teacher), endpoint.url, endpoint.key_env
    found = looks.look_again(plane, url, key_env, known.kind, name, known.card)
    with plane.database.unit(writes=True) as unit:
        unit.after_commit(plane.bell.ring)
        teacher, endpoint = _get(unit.session, name, identifier)
        service.record(unit.session, teacher, endpoint, found, plane.clock(), drained=False)
        return shown(teacher)


def _live(plane: Plane, teacher: Teacher) -> Card | None:
    """What a teacher that moves says of itself at this moment; None: none of its endpoints answers."""
    for each in teacher.endpoints:
        with suppress(PreceptorError):
            return plane.vital(each.url, looks.key_of(each.key_env))
    return None


def _get(session: Session, name: str, identifier: str) -> tuple[models.Teacher, models.Endpoint]:
    """A teacher, locked, and one of its endpoints. Raises NotFound."""
    teacher = service.get(session, name, lock=True)
    for endpoint in teacher.endpoints:
        if endpoint.id == identifier:
            return teacher, endpoint
    raise NotFound(
        f"Teacher {name} has no endpoint {identifier[:100]!r}.", remedy=f"GET /v1/teachers/{name} lists them."
    )


def _check_may_join(teacher: models.Teacher, url: str) -> None:
    if any(each.url.rstrip("/") == url.rstrip("/") for each in teacher.endpoints):
        raise Conflict(f"Teacher {teacher.name} answers at {url} already.", field="url", remedy="Name another URL.")
    if teacher.card is None:
        raise Conflict(f"Nothing is known of teacher {teacher.name}.", remedy="Probe it first.")
