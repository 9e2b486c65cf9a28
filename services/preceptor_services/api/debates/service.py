"""Debates as their users know them: started, found, cancelled."""

from __future__ import annotations

from contextlib import closing

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire import debates as wire
from preceptor.wire.common import Page
from preceptor_services.api import cursors
from preceptor_services.api.debates import checks, templates
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.once import became, hash_of
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history
from preceptor_services.api.sending import enqueue
from preceptor_services.db import models
from preceptor_services.db.session import Unit

State = wire.DebateState
_AT_ONCE = 20
"""Debates that are read together where the first that will do is looked for: a `fresh` one may have been held often."""


def get(session: Session, debate_id: str, *, lock: bool = False) -> models.Debate:
    """A debate; with `lock`, as it is now and until the unit of work ends. Raises NotFound."""
    debate = session.get(models.Debate, debate_id, with_for_update=lock or None, populate_existing=lock)
    if debate is None:
        raise NotFound(f"There is no debate {debate_id[:100]!r}.", remedy="GET /v1/debates lists them.")
    return debate


def shown(
    debate: models.Debate, turns: tuple[wire.DebateTurn, ...] = (), run: wire.RunDebate | None = None
) -> wire.Debate:
    """A debate as it travels."""
    own = {name: getattr(debate, name) for name in wire.Debate.model_fields if name not in ("state", "turns", "run")}
    return wire.Debate(**own, state=State(debate.state), turns=turns, run=run)


def show(session: Session, debate_id: str) -> wire.Debate:
    """One debate, with what was said."""
    debate, place = get(session, debate_id), session.get(models.RunDebate, debate_id)
    return shown(debate, turns_of(session, debate), None if place is None else placed(place))


def placed(row: models.RunDebate) -> wire.RunDebate:
    """Where a run held a debate, as it travels."""
    own = {name: getattr(row, name) for name in wire.RunDebate.model_fields if name != "run"}
    return wire.RunDebate(**own, run=row.run_id)


def turns_of(session: Session, debate: models.Debate) -> tuple[wire.DebateTurn, ...]:
    """What was said in a debate, or in the one that was held in its stead, by round and debater."""
    table = models.DebateTurn
    found = session.scalars(select(table).where(table.debate_id == (debate.cached_from or debate.id)))
    places = {name: place for place, name in enumerate(debate.wish.teachers)}
    return tuple(sorted((each.turn for each in found), key=lambda turn: (turn.round, places[turn.debater])))


def page(
    session: Session, *, state: State | None, run: str | None, step: int | None, limit: int, cursor: str | None
) -> Page[wire.Debate]:
    """Debates, newest first, without their turns: those that were asked for, or those that a run held for itself."""
    if run is not None:
        history.get(session, run)
    elif step is not None:
        raise Invalid("step: only the debates of a run have one.", field="step", remedy="Name the run as well.")
    table, place = models.Debate, models.RunDebate
    joined = select(table, place).outerjoin(place, place.debate_id == table.id)
    query = cursors.newest(joined, table, limit, cursor)
    query = query.where(place.run_id.is_(None) if run is None else place.run_id == run)
    if step is not None:
        query = query.where(place.step == step)
    if state is not None:
        query = query.where(table.state == state.value)
    found = [(each, row) for each, row in session.execute(query)]
    items = tuple(shown(each, run=None if row is None else placed(row)) for each, row in found[:limit])
    return Page(items=items, next_cursor=cursors.following([each for each, _ in found], limit))


def start(plane: Plane, unit: Unit, wish: wire.DebateCreate, key_id: str, idempotency_key: str | None) -> wire.Debate:
    """Check a wish and queue it; where the same debate was held already, its outcome is this one's."""
    session, at, hashed = unit.session, plane.clock(), hash_of(wish)
    if (before := became(session, models.Debate, key_id, idempotency_key, hashed)) is not None:
        return shown(before, turns_of(session, before))
    cards = checks.debaters(session, wish)
    wording = templates.worded(session, wish.template, wish.overrides)
    checks.check(wish, wording)
    voices = {name: wire.Voice.of(card) for name, card in cards.items()}
    cache_key = checks.cache_key(wish, wording, voices)
    known = None if wish.fresh else held_before(session, cache_key, wish, wording)
    debate = models.Debate(
        id=new_id("debate"),
        wish=wish,
        template=wording,
        cache_key=cache_key,
        state=State.QUEUED.value,
        created_at=at,
        updated_at=at,
        created_by=key_id,
        idempotency_key=idempotency_key,
        request_hash=hashed,
    )
    if known is not None:
        debate.cached_from, debate.result = known.id, known.result
        debate.state, debate.finished_at = State.SUCCEEDED.value, at
    session.add(debate)
    session.flush()
    if known is None:
        enqueue(plane, unit, debate)
    return shown(debate, turns_of(session, debate))


def held_before(
    session: Session, cache_key: str, wish: wire.DebateCreate, wording: wire.StoredTemplate
) -> models.Debate | None:
    """The last debate that went as this one would, on request or in a run."""
    table = models.Debate
    query = select(table).where(
        table.cache_key == cache_key, table.state == State.SUCCEEDED.value, table.cached_from.is_(None)
    )
    newest = query.order_by(table.created_at.desc()).execution_options(yield_per=_AT_ONCE)
    with closing(session.scalars(newest)) as found:
        for each in found:
            if each.result is not None and checks.affords(wish, wording, each.wish.budget, each.result.ended):
                return each
    return None


def cancel(plane: Plane, unit: Unit, debate_id: str) -> wire.Debate:
    """Cancel at once what no worker has; ask the worker otherwise. Doing it again changes nothing."""
    session, at = unit.session, plane.clock()
    debate = get(session, debate_id, lock=True)
    state = State(debate.state)
    if state in (State.SUCCEEDED, State.FAILED):
        raise Conflict(f"Debate {debate_id} has {state.value} already.", remedy="There is nothing left to cancel.")
    if state is State.QUEUED:
        debate.state, debate.finished_at, debate.updated_at = State.CANCELLED.value, at, at
    elif state is State.RUNNING:
        debate.cancel_requested, debate.updated_at = True, at
    session.flush()
    return shown(debate, turns_of(session, debate))
