"""Teachers: registered after a look at them, looked at again, drained, forgotten."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.adapters import Stock
from preceptor.errors import Conflict, Invalid, NotFound, PreceptorError
from preceptor.wire.runs import RunState
from preceptor.wire.teachers import (
    Card,
    Outcome,
    Probe,
    ProbeCheck,
    Teacher,
    TeacherCreate,
    TeacherKind,
    TeacherState,
    TokenizerCard,
)
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.plane import Plane
from preceptor_services.api.teachers.urls import check_url
from preceptor_services.db import models
from preceptor_services.settings import PREFIX, read_secret

OWN_SECRETS = frozenset(PREFIX + name for name in ("ADMIN_KEY", "BROKER_URL", "DATABASE_URL", "KEY", "WORKER_KEY"))
"""What must never be sent to a teacher as its key."""
UNENDED = (RunState.QUEUED.value, RunState.RUNNING.value, RunState.PAUSED.value)


def shown(teacher: models.Teacher) -> Teacher:
    """A teacher as it travels."""
    return Teacher(
        id=teacher.id,
        name=teacher.name,
        url=teacher.url,
        kind=TeacherKind(teacher.kind),
        key_env=teacher.key_env,
        state=TeacherState(teacher.state),
        card=teacher.card,
        probe=teacher.probe,
        created_at=teacher.created_at,
        updated_at=teacher.updated_at,
    )


def find(session: Session, name: str) -> models.Teacher | None:
    """The teacher of this name."""
    return session.scalar(select(models.Teacher).where(models.Teacher.name == name))


def get(session: Session, name: str) -> models.Teacher:
    """The teacher of this name. Raises NotFound."""
    teacher = find(session, name)
    if teacher is None:
        raise NotFound(f"There is no teacher {name[:100]!r}.", remedy="GET /v1/teachers lists them.")
    return teacher


def every(session: Session) -> tuple[Teacher, ...]:
    """All teachers, by name."""
    return tuple(shown(each) for each in session.scalars(select(models.Teacher).order_by(models.Teacher.name)))


def add(plane: Plane, wish: TeacherCreate) -> Teacher:
    """Look at a teacher and register it. Raises Invalid where its URL may not be called or nothing answers there.

    Its own units of work: the look takes seconds, and must hold no transaction meanwhile.
    """
    with plane.database.unit(writes=False) as unit:
        _check_free(unit.session, wish.name)
    check_url(wish.url, plane.settings.refused_networks)
    key = _key(wish.key_env)
    try:
        card, probe = plane.probe(wish.url, key, *_how(wish.kind, wish.name, wish.model, wish.tokenizer))
    except PreceptorError as error:
        raise Invalid(
            f"url: no teacher answered. {error}", field="url", remedy="Start it, or correct the URL."
        ) from error
    with plane.database.unit(writes=True) as unit:
        _check_free(unit.session, wish.name)
        at = plane.clock()
        teacher = models.Teacher(
            id=new_id("teacher"),
            name=wish.name,
            url=wish.url,
            kind=wish.kind.value,
            key_env=wish.key_env,
            state=_state(probe).value,
            card=card,
            probe=probe,
            created_at=at,
            updated_at=at,
        )
        unit.session.add(teacher)
        return shown(teacher)


def probe(plane: Plane, name: str, *, undrain: bool = False) -> Teacher:
    """Look at a teacher again. One that does not answer is down; one that is drained stays so, unless `undrain`."""
    with plane.database.unit(writes=False) as unit:
        known = shown(get(unit.session, name))
    card, found = _look(plane, known)
    with plane.database.unit(writes=True) as unit:
        teacher = get(unit.session, name)
        teacher.card, teacher.probe, teacher.updated_at = card, found, plane.clock()
        if undrain or teacher.state != TeacherState.DRAINING.value:
            teacher.state = _state(found).value
        return shown(teacher)


def drain(session: Session, name: str, at: datetime) -> Teacher:
    """Give it no new runs."""
    teacher = get(session, name)
    teacher.state, teacher.updated_at = TeacherState.DRAINING.value, at
    return shown(teacher)


def remove(session: Session, name: str) -> None:
    """Forget it. Raises Conflict while a run that has not ended needs it."""
    teacher = get(session, name)
    runs, asked = models.Run, models.RunTeacher
    needing = select(runs.id).join(asked, asked.run_id == runs.id).where(asked.teacher == name, runs.state.in_(UNENDED))
    if (run := session.scalar(needing.limit(1))) is not None:
        raise Conflict(
            f"Run {run} still needs teacher {name}.", remedy="Drain it, and delete it when its runs have ended."
        )
    session.delete(teacher)


def _look(plane: Plane, teacher: Teacher) -> tuple[Card | None, Probe]:
    try:
        check_url(teacher.url, plane.settings.refused_networks)
        card = teacher.card
        model, tokenizer = (None, None) if card is None else (card.model, card.tokenizer)
        return plane.probe(teacher.url, _key(teacher.key_env), *_how(teacher.kind, teacher.name, model, tokenizer))
    except PreceptorError as error:
        silent = ProbeCheck(name="reachable", outcome=Outcome.FAILED, detail=str(error)[:1000])
        return teacher.card, Probe(at=plane.clock(), ok=False, checks=(silent,))


def _how(
    kind: TeacherKind, name: str, model: str | None, tokenizer: TokenizerCard | None
) -> tuple[TeacherKind, Stock] | tuple[()]:
    """How a stock server is looked at: with what it cannot say itself. A Preceptor teacher says everything."""
    if kind is TeacherKind.PRECEPTOR:
        return ()
    return kind, Stock(name=name, model=model, tokenizer=tokenizer)


def _state(probe: Probe) -> TeacherState:
    if probe.ok:
        return TeacherState.READY
    silent = any(check.name == "reachable" and check.outcome is Outcome.FAILED for check in probe.checks)
    return TeacherState.DOWN if silent else TeacherState.DEGRADED


def _check_free(session: Session, name: str) -> None:
    if find(session, name) is not None:
        raise Conflict(f"There is a teacher {name} already.", field="name", remedy="Choose another name, or delete it.")


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable in OWN_SECRETS:
        raise Invalid(
            f"key_env: {variable} is one of the control plane's own secrets, which no teacher may see.",
            field="key_env",
            remedy="Give the teacher a key of its own, in a variable of its own.",
        )
    key = read_secret(variable)
    if not key:
        raise Invalid(
            f"key_env: the control plane has no environment variable {variable}, nor {variable}_FILE.",
            field="key_env",
            remedy="Set it where the control plane and the workers run, and start them again.",
        )
    return key
