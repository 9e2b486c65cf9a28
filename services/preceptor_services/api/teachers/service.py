"""Teachers: registered after a look at them, looked at again, drained, forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound, PreceptorError
from preceptor.wire.teachers import Card, Teacher, TeacherCreate, TeacherState
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.plane import Plane
from preceptor_services.api.teachers import alike, looks, news
from preceptor_services.api.teachers.states import shown, users
from preceptor_services.db import models
from preceptor_services.db.session import one_at_a_time

LOOKS_AT_ONCE = 8
"""Endpoints that are looked at together."""


def find(session: Session, name: str) -> models.Teacher | None:
    """The teacher of this name."""
    return session.scalar(select(models.Teacher).where(models.Teacher.name == name))


def hold(session: Session, names: Iterable[str]) -> None:
    """Be alone with these teachers, registered or not, until the unit of work ends: of two that have runs ask one, or
    of one that does and one that forgets it, the second is to find what the first has done. Before any row is locked,
    and all at once, or two would wait for each other.
    """
    for name in sorted(set(names)):
        one_at_a_time(session, f"teacher/{name}")


def get(session: Session, name: str, *, lock: bool = False) -> models.Teacher:
    """The teacher of this name; with `lock`, as it is now and until the unit of work ends. Raises NotFound."""
    query = select(models.Teacher).where(models.Teacher.name == name)
    teacher = session.scalar(query.with_for_update().execution_options(populate_existing=True) if lock else query)
    if teacher is None:
        raise NotFound(f"There is no teacher {name[:100]!r}.", remedy="GET /v1/teachers lists them.")
    return teacher


def every(session: Session) -> tuple[Teacher, ...]:
    """All teachers, by name."""
    return tuple(shown(each) for each in session.scalars(select(models.Teacher).order_by(models.Teacher.name)))


def add(plane: Plane, wish: TeacherCreate) -> Teacher:
    """Look at a teacher and register it. Raises Invalid where its URL may not be called, nothing answers there, or
    what answers is not what it says.

    Its own units of work: the look takes seconds, and must hold no transaction meanwhile.
    """
    with plane.database.unit(writes=False) as unit:
        _check_free(unit.session, wish.name)
    try:
        card, probe = looks.look(plane, wish.url, wish.key_env, wish.kind, wish.name, wish.model, wish.tokenizer)
    except Invalid:
        raise
    except PreceptorError as error:
        raise silent(error) from error
    looks.refuse_liars(card, probe)
    with plane.database.unit(writes=True) as unit:
        _check_free(unit.session, wish.name)
        at = plane.clock()
        teacher = models.Teacher(
            id=new_id("teacher"),
            name=wish.name,
            kind=wish.kind.value,
            drained=False,
            card=card,
            created_at=at,
            updated_at=at,
        )
        teacher.endpoints.append(
            models.Endpoint(
                id=new_id("endpoint"),
                url=wish.url,
                key_env=wish.key_env,
                state=TeacherState.READY.value,
                drained=False,
                probe=probe,
                created_at=at,
            )
        )
        unit.session.add(teacher)
        try:
            unit.session.flush()
        except IntegrityError as error:  # another one took the name since it was found free
            raise _taken(wish.name) from error
        return shown(teacher)


def silent(error: PreceptorError) -> Invalid:
    """The refusal of a URL where nothing gave a card."""
    return Invalid(f"url: no teacher answered. {error}", field="url", remedy="Start it, or correct the URL.")


def probe(plane: Plane, name: str, *, undrain: bool = False) -> Teacher:
    """Look at all endpoints of a teacher again. One that does not answer is down; one that is drained stays so.

    The card is what they all say now; where they do not agree, or the tokenizer is another than before, the card stays
    and those that differ from it are degraded. `undrain`: let the teacher have runs again.
    """
    with plane.database.unit(writes=False) as unit:
        known = shown(get(unit.session, name))
    with ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="probe") as threads:
        asked = {
            each.id: threads.submit(looks.look_again, plane, each.url, each.key_env, known.kind, name, known.card)
            for each in known.endpoints
        }
        found = {identifier: future.result() for identifier, future in asked.items()}
    with plane.database.unit(writes=True) as unit:
        unit.after_commit(plane.bell.ring)
        at = plane.clock()
        teacher = get(unit.session, name, lock=True)
        teacher.card = _agreed(teacher.card, [card for card, _ in found.values() if card is not None])
        teacher.updated_at = at
        if undrain:
            teacher.drained = False
        for endpoint in teacher.endpoints:
            if endpoint.id in found:  # not one that joined meanwhile: it was looked at then
                record(unit.session, teacher, endpoint, found[endpoint.id], at)
        return shown(teacher)


def record(
    session: Session,
    teacher: models.Teacher,
    endpoint: models.Endpoint,
    found: looks.Found,
    at: datetime,
    *,
    drained: bool | None = None,
) -> None:
    """Keep what a probe found at an endpoint, and whether it is to be `drained` from now on (None: as before)."""
    card, probe = found
    state, trouble = looks.state_found(probe), looks.trouble_found(probe)
    if card is not None and teacher.card is not None and (said := alike.other_teacher(teacher.card, card)) is not None:
        state, trouble = TeacherState.DEGRADED, f"It is not the teacher that was registered: {said}."
    endpoint.probe = probe
    news.put(session, teacher, endpoint, state, trouble, at, drained=drained)


def drain(session: Session, name: str, at: datetime) -> Teacher:
    """Give it no new runs; those that there are go on asking it."""
    teacher = get(session, name, lock=True)
    teacher.drained, teacher.updated_at = True, at
    return shown(teacher)


def remove(session: Session, name: str) -> None:
    """Forget it. Raises Conflict while a run that has not ended needs it."""
    hold(session, [name])
    teacher = get(session, name, lock=True)
    if needing := users(session, [name], news.UNENDED).get(name):
        raise Conflict(
            f"Run {needing[0]} still needs teacher {name}.", remedy="Drain it, and delete it when its runs have ended."
        )
    session.delete(teacher)


def _agreed(known: Card | None, found: list[Card]) -> Card | None:
    """The card after a look at all endpoints."""
    if not found:
        return known
    first = found[0]
    if any(alike.other_teacher(first, each) is not None for each in found[1:]):
        return known
    if known is not None and alike.other_tokenizer(known, first) is not None:
        return known
    return first


def _check_free(session: Session, name: str) -> None:
    if find(session, name) is not None:
        raise _taken(name)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a teacher {name} already.", field="name", remedy="Choose another name, or delete it.")
