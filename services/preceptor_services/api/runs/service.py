"""Runs as their users know them: started, found, paused, cancelled, resumed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict
from preceptor.wire import runs as wire
from preceptor.wire.common import Page
from preceptor.wire.waiting import Waiting
from preceptor_services.api import cursors
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.once import became, hash_of
from preceptor_services.api.plane import Plane
from preceptor_services.api.recipes.service import resolved
from preceptor_services.api.runs import history, pairs
from preceptor_services.api.runs.checks import check
from preceptor_services.api.runs.recipe_files import take_up_file
from preceptor_services.api.runs.roles import Roles, asked_by, roles_of, rows
from preceptor_services.api.runs.training_checks import check_alone, moved
from preceptor_services.api.runs.waiting import waiting
from preceptor_services.api.sending import enqueue
from preceptor_services.api.teachers import service as teachers
from preceptor_services.db import models
from preceptor_services.db.session import Unit
from preceptor_trainer import recipes

State = wire.RunState


def shown(run: models.Run, roles: Roles, waits: Waiting | None = None) -> wire.Run:
    """A run as it travels."""
    checkpoint = None
    if run.checkpoint_step is not None and run.checkpoint_artifact is not None:
        checkpoint = wire.CheckpointRef(step=run.checkpoint_step, artifact=run.checkpoint_artifact)
    return wire.Run(
        id=run.id,
        name=run.name,
        recipe=run.recipe,
        overrides=run.overrides,
        resolved=run.resolved,
        recipe_sha256=run.recipe_sha256,
        student=run.student,
        teachers=roles.teachers,
        fallbacks=roles.fallbacks,
        refilled=roles.refilled,
        sampler=roles.sampler,
        skills=run.skills,
        data=run.data,
        training=run.training,
        alignment=run.alignment,
        state=State(run.state),
        step=run.step,
        created_at=run.created_at,
        updated_at=run.updated_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        error=run.error,
        result=run.result,
        worker=run.worker,
        fence=run.fence,
        attempt=run.attempt,
        checkpoint=checkpoint,
        cancel_requested=run.cancel_requested,
        pause_requested=run.pause_requested,
        waits=waits,
    )


def show(session: Session, run_id: str) -> wire.Run:
    """One run. Raises NotFound."""
    return _shown(session, history.get(session, run_id))


def page(
    session: Session, *, state: State | None, recipe: str | None, name: str | None, limit: int, cursor: str | None
) -> Page[wire.Run]:
    """Runs, newest first."""
    table = models.Run
    query = cursors.newest(select(table), table, limit, cursor)
    for column, wanted in ((table.state, state), (table.recipe, recipe), (table.name, name)):
        if wanted is not None:
            query = query.where(column == wanted)
    found = list(session.scalars(query))
    roles = roles_of(session, [each.id for each in found])
    items = tuple(shown(each, roles.get(each.id, Roles())) for each in found[:limit])
    return Page(items=items, next_cursor=cursors.following(found, limit))


def start(
    plane: Plane,
    unit: Unit,
    wish: wire.RunCreate,
    key_id: str,
    idempotency_key: str | None,
    *,
    paired: bool = False,
) -> wire.Run:
    """Check a wish and queue it. The same wish under the same idempotency key is the run that it already became.
    `paired`: it is a side of a pair."""
    session, at, hashed = unit.session, plane.clock(), hash_of(wish)
    if (before := became(session, models.Run, key_id, idempotency_key, hashed)) is not None:
        return _shown(session, before)
    asked = asked_by(wish)
    teachers.hold(session, asked.names)
    accepted = check(session, wish, paired=paired)
    run_id = new_id("run")
    run = models.Run(
        id=run_id,
        name=wish.name or f"{wish.recipe}-{run_id[-6:]}",
        recipe=wish.recipe,
        overrides=wish.overrides,
        resolved=resolved(accepted.recipe),
        recipe_sha256=recipes.fingerprint(wish.recipe),
        student=wish.student,
        data=wish.data,
        training=accepted.training,
        skills=accepted.skills,
        alignment=wish.alignment,
        state=State.QUEUED.value,
        created_at=at,
        updated_at=at,
        created_by=key_id,
        idempotency_key=idempotency_key,
        request_hash=hashed,
    )
    session.add(run)
    session.flush()
    session.add_all(rows(run_id, asked))
    history.moved(session, run, None, State.QUEUED, "submitted", at)
    enqueue(plane, unit, run)
    return _shown(session, run)


def cancel(plane: Plane, unit: Unit, run_id: str) -> wire.Run:
    """Cancel at once what no worker has; ask the worker otherwise. Doing it again changes nothing."""
    session, at = unit.session, plane.clock()
    run = history.get(session, run_id, lock=True)
    state = State(run.state)
    if state in (State.SUCCEEDED, State.FAILED):
        raise Conflict(f"Run {run_id} has {state.value} already.", remedy="There is nothing left to cancel.")
    if state in (State.QUEUED, State.PAUSED):
        run.state, run.finished_at, run.updated_at = State.CANCELLED.value, at, at
        history.moved(session, run, state, State.CANCELLED, "cancelled before a worker took it", at)
        pairs.leave(session, run, at)
    elif state is State.RUNNING and not run.cancel_requested:
        run.cancel_requested, run.updated_at = True, at
        history.tell(session, run_id, [("note", {"message": "Cancel requested; the worker stops within a step."})], at)
    session.flush()
    return _shown(session, run)


def pause(plane: Plane, unit: Unit, run_id: str) -> wire.Run:
    """Ask the worker to stop after its step, with a checkpoint, and to give the run back. Again changes nothing."""
    session, at = unit.session, plane.clock()
    run = history.get(session, run_id, lock=True)
    state = State(run.state)
    if state is State.RUNNING and run.cancel_requested:
        raise Conflict(f"Run {run_id} is being cancelled.", remedy="Resume it when it is.")
    if state not in (State.RUNNING, State.PAUSED):
        raise Conflict(f"Run {run_id} is {state.value}; only a running one can be paused.", remedy="Cancel it instead.")
    if state is State.RUNNING and not run.pause_requested:
        run.pause_requested, run.updated_at = True, at
        session.flush()
        history.tell(session, run_id, [("note", {"message": "Pause requested; the worker stops within a step."})], at)
    return _shown(session, run)


def resume(plane: Plane, unit: Unit, run_id: str, step: int | None = None) -> wire.Run:
    """Queue what is paused, failed or was cancelled again; a worker goes on from the last checkpoint, or from that of
    `step` as long as it is kept.

    A run that a worker has not paused yet simply goes on.
    """
    session, at = unit.session, plane.clock()
    hold_teachers(session, [run_id])
    run = history.get(session, run_id, lock=True)
    state = State(run.state)
    if state is State.RUNNING and run.pause_requested and step is None:
        run.pause_requested, run.updated_at = False, at
        session.flush()
        history.tell(session, run_id, [("note", {"message": "Goes on: the pause was taken back."})], at)
        return _shown(session, run)
    if state not in (State.PAUSED, State.FAILED, State.CANCELLED):
        raise Conflict(f"Run {run_id} is {state.value}; only a paused, failed or cancelled one can be resumed.")
    _check_teachers(session, run, state)
    if step is not None:
        run.checkpoint_step, run.checkpoint_artifact = step, _kept(session, run_id, step)
    run.state, run.updated_at, run.finished_at, run.error = State.QUEUED.value, at, None, None
    run.cancel_requested = run.pause_requested = False
    goes_on = "the start" if run.checkpoint_step is None else f"the checkpoint of step {run.checkpoint_step}"
    history.moved(session, run, state, State.QUEUED, f"resumed; goes on from {goes_on}", at)
    if changed := take_up_file(run):
        history.tell(session, run_id, [("note", {"message": changed})], at)
    enqueue(plane, unit, run)
    return _shown(session, run)


def hold_teachers(session: Session, run_ids: Sequence[str]) -> None:
    """Be alone with the teachers of these runs, as `teachers.hold` says."""
    teachers.hold(session, {name for roles in roles_of(session, run_ids).values() for name in roles.names})


def _kept(session: Session, run_id: str, step: int) -> str:
    """The artifact of a run's checkpoint of a step. Raises Conflict where it is not kept, with those that are."""
    table, there = models.Event, models.Artifact.id
    query = select(table.data).where(table.run_id == run_id, table.kind == "checkpoint").order_by(table.number)
    told = {int(data["step"]): str(data["artifact"]) for data in session.scalars(query)}
    held = set(session.scalars(select(there).where(there.in_(told.values()))))
    kept = {each: artifact for each, artifact in told.items() if artifact in held}
    if step not in kept:
        raise Conflict(
            f"step: run {run_id} has no checkpoint of step {step}; it has those of {sorted(kept) or 'none'}.",
            field="step",
            remedy="Name one of them, or none: then it goes on from the last.",
        )
    return kept[step]


def _check_teachers(session: Session, run: models.Run, state: State) -> None:
    """Raises Conflict where a teacher of a run that is to be resumed is gone, or takes no more runs."""
    roles = roles_of(session, [run.id]).get(run.id, Roles())
    for role, name in (*roles.registered.items(), *roles.fallbacks.items()):
        teacher = teachers.find(session, name)
        if teacher is None:
            raise Conflict(
                f"Run {run.id} needs teacher {name} as {role}, which is not registered any more.",
                remedy="Register it again under this name, or start a new run.",
            )
        if teacher.drained and state is not State.PAUSED:  # a paused run never ceased to need it
            raise Conflict(
                f"Run {run.id} needs teacher {name} as {role}, which is draining and takes no more runs.",
                remedy=f"Let it have runs again (`preceptor teachers drain {name} --undo`), or start a new run.",
            )
    check_alone(session, roles.names, moved(run.resolved["teacher"]["kind"], roles.teachers, roles.sampler), but=run.id)


def _shown(session: Session, run: models.Run) -> wire.Run:
    return shown(run, roles_of(session, [run.id]).get(run.id, Roles()), waiting(session, run))
