"""Watching the teachers that runs use: who went down, who is back, who is no longer who it was.

Only endpoints that a run which has not ended may ask are looked at, several at once, and no transaction is held
meanwhile. The database is written where something changed, and the runs are told; where nothing did, a round costs one
query. Every control plane on the database does this for itself, and what they find is the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from preceptor.adapters import Stock, stock_of
from preceptor.errors import NotAuthorised, PreceptorError
from preceptor.wire.teachers import Card, TeacherKind, TeacherState
from preceptor_services.api.plane import Plane
from preceptor_services.api.teachers import alike, looks, news
from preceptor_services.api.teachers.service import LOOKS_AT_ONCE
from preceptor_services.api.teachers.states import used
from preceptor_services.api.teachers.urls import check_url
from preceptor_services.db import models

log = logging.getLogger(__name__)

MISSES = 2
"""Looks in a row that nobody must have answered before an endpoint is down: one may be a hiccup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """An endpoint as it was when the round began."""

    id: str
    teacher: str
    kind: TeacherKind
    url: str
    key_env: str | None
    card: Card | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What was seen there."""

    state: TeacherState
    trouble: str | None = None


async def watch_for_ever(plane: Plane) -> None:
    """Wait, watch, wait. A round that fails is logged and not the last."""
    while True:
        await asyncio.sleep(plane.settings.watch_seconds)
        try:
            await run_in_threadpool(watch, plane)
        except Exception:
            log.exception("A look at the teachers failed; the next one is in %.0f s", plane.settings.watch_seconds)


def watch(plane: Plane) -> None:
    """One round."""
    watched = _watched(plane)
    plane.misses.keep({each.id for each in watched})
    if not watched:
        return
    with ThreadPoolExecutor(min(LOOKS_AT_ONCE, len(watched)), thread_name_prefix="watch") as threads:
        seen = dict(
            zip((each.id for each in watched), threads.map(lambda each: _see(plane, each), watched), strict=True)
        )
    for each in watched:
        if (found := seen[each.id]) is not None:
            _record(plane, each, found)


def _watched(plane: Plane) -> Sequence[_Watched]:
    with plane.database.unit(writes=False) as unit:
        table, names = models.Teacher, used(unit.session, news.UNENDED)
        teachers = unit.session.scalars(select(table).where(table.name.in_(names)).order_by(table.name)).all()
        return [
            _Watched(
                id=each.id,
                teacher=teacher.name,
                kind=TeacherKind(teacher.kind),
                url=each.url,
                key_env=each.key_env,
                card=teacher.card,
            )
            for teacher in teachers
            for each in teacher.endpoints
        ]


def _see(plane: Plane, watched: _Watched) -> _Seen | None:
    """What is to be seen at an endpoint; None: too early to tell."""
    try:
        check_url(watched.url, plane.settings.refused_networks)
        card = plane.vital(watched.url, looks.key_of(watched.key_env), *_how(watched))
    except NotAuthorised as error:
        return _Seen(state=TeacherState.DOWN, trouble=str(error)[:1000])
    except PreceptorError as error:
        if plane.misses.missed(watched.id) < MISSES:
            return None
        return _Seen(state=TeacherState.DOWN, trouble=str(error)[:1000])
    plane.misses.answered(watched.id)
    if card is not None and watched.card is not None and (said := alike.other_teacher(watched.card, card)) is not None:
        return _Seen(state=TeacherState.DEGRADED, trouble=f"It is not the teacher that was registered: {said}.")
    return _Seen(state=TeacherState.READY)


def _how(watched: _Watched) -> tuple[TeacherKind, Stock] | tuple[()]:
    known = stock_of(watched.teacher, watched.card)
    model, tokenizer = (None, None) if known is None else (known.model, known.tokenizer)
    return looks.how(watched.kind, watched.teacher, model, tokenizer)


def _record(plane: Plane, watched: _Watched, seen: _Seen) -> None:
    """Write down what changed. What the last probe found wrong stays wrong until another probe."""
    with plane.database.unit(writes=False) as unit:
        endpoint = unit.session.get(models.Endpoint, watched.id)
        if endpoint is None or _after(endpoint, seen) == (endpoint.state, endpoint.trouble):
            return
    with plane.database.unit(writes=True) as unit:
        unit.after_commit(plane.bell.ring)
        teacher = unit.session.scalar(
            select(models.Teacher).where(models.Teacher.name == watched.teacher).with_for_update()
        )
        endpoint = unit.session.get(models.Endpoint, watched.id, populate_existing=True)
        if teacher is None or endpoint is None or endpoint.url != watched.url:
            return
        state, trouble = _after(endpoint, seen)
        if news.put(unit.session, teacher, endpoint, TeacherState(state), trouble, plane.clock()):
            log.warning("Teacher %s at %s is %s: %s", watched.teacher, watched.url, state, trouble or "it answers")


def _after(endpoint: models.Endpoint, seen: _Seen) -> tuple[str, str | None]:
    """State and trouble of an endpoint once this was seen."""
    if seen.state is TeacherState.READY and endpoint.probe is not None and not endpoint.probe.ok:
        if any(check.name == "reachable" for check in endpoint.probe.checks):
            return TeacherState.READY.value, None  # the probe found nobody, and somebody is there now
        return TeacherState.DEGRADED.value, looks.trouble_found(endpoint.probe)
    return seen.state.value, seen.trouble
