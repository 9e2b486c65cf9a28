"""Pairs as their users know them: started, found, stopped, taken up again. The work is done by two ordinary runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, NotFound
from preceptor.wire import codistillations as wire
from preceptor.wire.artifacts import ArtifactKind, ModelFacts
from preceptor.wire.common import Page
from preceptor.wire.pairs import Side
from preceptor.wire.runs import RunState
from preceptor.wire.teachers import Card, HeadCard, Limits, Support, TeacherKind, TeacherState, TokenizerCard
from preceptor_services.api import cursors
from preceptor_services.api.artifacts.service import ready_facts
from preceptor_services.api.codistillations.checks import check_devices, check_pair, of_side, on_loss, side_of
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.once import became, hash_of
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history
from preceptor_services.api.runs import service as runs
from preceptor_services.api.runs.pairs import BOTH, SIDES, sides
from preceptor_services.api.runs.roles import asked_by
from preceptor_services.api.runs.waiting import waiting
from preceptor_services.api.teachers import service as teachers
from preceptor_services.db import models
from preceptor_services.db.session import Unit

KEY_ENV = "PRECEPTOR_TEACHER_KEY"
"""The variable that holds what callers of a published student show."""
UNSERVED = "http://unserved.invalid"
"""Where a student answers that no worker trains yet: nowhere, by RFC 2606."""
MOST = 2**31 - 1


def start(
    plane: Plane, unit: Unit, wish: wire.CodistillationCreate, key_id: str, idempotency_key: str | None
) -> wire.Codistillation:
    """Check a wish and queue its two runs. The same wish under the same idempotency key is the pair that it became."""
    session, at, hashed = unit.session, plane.clock(), hash_of(wish)
    if (held := became(session, models.Codistillation, key_id, idempotency_key, hashed)) is not None:
        return shown(session, held)
    teachers.hold(session, {name for side in SIDES for name in asked_by(side_of(wish, side).run).names})
    check_pair(session, wish)
    pair_id = new_id("pair")
    pair = models.Codistillation(
        id=pair_id,
        name=wish.name or pair_id,
        policy=wish.policy,
        created_at=at,
        created_by=key_id,
        idempotency_key=idempotency_key,
        request_hash=hashed,
    )
    session.add(pair)
    names: dict[Side, str] = {side: f"{pair.name}-{side}" for side in SIDES}
    students = [_register(session, names[side], side, side_of(wish, side).run.student, at) for side in SIDES]
    for side, other in BOTH:
        run_id = _start_run(plane, unit, wish, side, names[other], key_id)
        session.add(
            models.CodistillationSide(
                codistillation_id=pair_id,
                side=side,
                run_id=run_id,
                teacher=names[side],
                teaches=list(side_of(wish, side).teaches),
                done_fence=0,
            )
        )
    _put_down(session, students)
    return shown(session, pair)


def show(session: Session, pair_id: str) -> wire.Codistillation:
    """One pair. Raises NotFound."""
    return shown(session, get(session, pair_id))


def page(session: Session, limit: int, cursor: str | None) -> Page[wire.Codistillation]:
    """Pairs, newest first."""
    table = models.Codistillation
    found = list(session.scalars(cursors.newest(select(table), table, limit, cursor)))
    items = tuple(shown(session, each) for each in found[:limit])
    return Page(items=items, next_cursor=cursors.following(found, limit))


def stop(plane: Plane, unit: Unit, pair_id: str) -> wire.Codistillation:
    """Cancel what has not ended of it: each side stops within one step, and leaves a checkpoint. Raises Conflict where
    both have ended."""
    session = unit.session
    going = [each for each in _runs(session, pair_id).values() if not RunState(each.state).ended]
    if not going:
        raise Conflict(f"Both runs of pair {pair_id} have ended already.", remedy="There is nothing left to stop.")
    for run in going:
        runs.cancel(plane, unit, run.id)
    return show(session, pair_id)


def resume(plane: Plane, unit: Unit, pair_id: str) -> wire.Codistillation:
    """Queue the sides again that failed, were cancelled or paused. Raises Conflict where there is none."""
    session = unit.session
    runs.hold_teachers(session, [each.run_id for each in sides(session, get(session, pair_id).id).values()])
    waiting = (RunState.PAUSED, RunState.FAILED, RunState.CANCELLED)
    stopped = [each for each in _runs(session, pair_id).values() if RunState(each.state) in waiting]
    if not stopped:
        raise Conflict(
            f"Neither run of pair {pair_id} is paused, failed or cancelled.", remedy="There is nothing to do."
        )
    lost = [  # somebody has forgotten a student that answered nobody
        _register(session, each.teacher, side, history.get(session, each.run_id).student, plane.clock())
        for side, each in sides(session, pair_id).items()
        if teachers.find(session, each.teacher) is None
    ]
    for run in stopped:
        runs.resume(plane, unit, run.id)
    _put_down(session, lost)
    return show(session, pair_id)


def get(session: Session, pair_id: str) -> models.Codistillation:
    """A pair. Raises NotFound."""
    pair = session.get(models.Codistillation, pair_id)
    if pair is None:
        raise NotFound(f"There is no pair {pair_id[:100]!r}.", remedy="GET /v1/codistillations lists them.")
    return pair


def shown(session: Session, pair: models.Codistillation) -> wire.Codistillation:
    """A pair as it travels."""
    found = {side: (each, history.get(session, each.run_id)) for side, each in sides(session, pair.id).items()}
    return wire.Codistillation(
        id=pair.id,
        name=pair.name,
        state=_state([run for _, run in found.values()]),
        policy=pair.policy,
        a=_side(session, *found["a"]),
        b=_side(session, *found["b"]),
        created_at=pair.created_at,
    )


def _side(session: Session, side: models.CodistillationSide, run: models.Run) -> wire.CodistillationSide:
    table = models.Publication
    query = select(func.max(table.version), func.count()).where(table.run_id == run.id)
    version, published = session.execute(query).one()
    return wire.CodistillationSide(
        run=run.id,
        name=run.name,
        state=RunState(run.state),
        step=run.step,
        steps=run.training.steps,
        worker=run.worker,
        teacher=side.teacher,
        url=side.url,
        teaches=tuple(side.teaches),
        version=version,
        published=published,
        waits=waiting(session, run),
    )


def _state(found: list[models.Run]) -> wire.CodistillationState:
    states = {RunState(run.state) for run in found}
    if states == {RunState.SUCCEEDED}:
        return wire.CodistillationState.SUCCEEDED
    if not states & {RunState.QUEUED, RunState.RUNNING}:
        return wire.CodistillationState.STOPPED
    begun = any(run.attempt for run in found)
    return wire.CodistillationState.RUNNING if begun else wire.CodistillationState.QUEUED


def _runs(session: Session, pair_id: str) -> dict[Side, models.Run]:
    get(session, pair_id)
    # Under their locks, always in the same order.
    found = sorted(sides(session, pair_id).items(), key=lambda each: each[1].run_id)
    return {side: history.get(session, each.run_id, lock=True) for side, each in found}


def _start_run(plane: Plane, unit: Unit, wish: wire.CodistillationCreate, side: Side, peer: str, key_id: str) -> str:
    mine = side_of(wish, side)
    run = mine.run.model_copy(
        update={
            "teachers": {**mine.run.teachers, wire.PEER: peer},
            "overrides": {**mine.run.overrides, **on_loss(side, mine)},
        }
    )
    with of_side(side):
        started = runs.start(plane, unit, run, key_id, None, paired=True)
    check_devices(side, started)
    return started.id


def _put_down(session: Session, students: Iterable[models.Teacher]) -> None:
    """They were ready only for the two runs that were just checked against them."""
    for student in students:
        student.endpoints[0].state = TeacherState.DOWN.value
        student.endpoints[0].trouble = "No worker trains this student yet."
    session.flush()


def _register(session: Session, name: str, side: Side, student: str, at: datetime) -> models.Teacher:
    """A side's student as a teacher that answers nowhere yet. Its card is what follows from its files."""
    if teachers.find(session, name) is not None:
        raise Conflict(
            f"name: there is a teacher {name} already, which is what side {side}'s student would be registered as.",
            field="name",
            remedy="Choose another name for the pair.",
        )
    field = f"{side}.run.student"
    facts = ready_facts(session, student, ArtifactKind.MODEL, field)
    assert isinstance(facts, ModelFacts)
    teacher = models.Teacher(
        id=new_id("teacher"),
        name=name,
        kind=TeacherKind.PRECEPTOR.value,
        drained=False,
        card=_card(name, facts),
        created_at=at,
        updated_at=at,
    )
    teacher.endpoints.append(
        models.Endpoint(
            id=new_id("endpoint"),
            url=UNSERVED,
            key_env=KEY_ENV,
            state=TeacherState.READY.value,
            drained=False,
            created_at=at,
        )
    )
    session.add(teacher)
    session.flush()
    return teacher


def _card(name: str, facts: ModelFacts) -> Card:
    """What a student will say of itself, as far as its files tell; the worker that trains it says the rest."""
    reads = facts.max_tokens or MOST
    return Card(
        teacher=name,
        model=name,
        weights_version=0,
        moves=True,
        engine="not served yet",
        device="unknown",
        dtype="float32",
        tokenizer=TokenizerCard(
            fingerprint=facts.fingerprint,
            vocab_size=facts.vocab_size,
            chat_template="sha256:" + "0" * 64 if facts.chat_template else None,
            unalignable=facts.unalignable,
        ),
        tokenizer_file="sha256:" + "0" * 64,
        limits=Limits(max_tokens=reads, max_batch_tokens=MOST, max_k=facts.vocab_size, max_body_bytes=MOST),
        supports=tuple(Support),
        head=HeadCard(hash="sha256:" + "0" * 64, hidden_size=1),
        generates=True,
    )
