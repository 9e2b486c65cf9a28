"""Watching the teachers that runs use: who went down, who is back, who is no longer who it was.

Only teachers that a run which has not ended may ask are looked at, and those that went down, which nobody would know
to be back; several endpoints at once, and no transaction is held meanwhile. The database is written where something
changed, and the runs are told; where nothing did, a round only reads. Every control plane on the database does this for
itself, and what they find is the same.

All threads here are daemons: a control plane that is told to stop does not wait for a teacher that does not answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from sqlalchemy import select

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
STOP_SECONDS = 1.0


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


class Watcher:
    """Watches until it is stopped."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Wait, watch, wait, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no more rounds. One that is under way is given a moment to end."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._plane.settings.watch_seconds):
            watch_once(self._plane)


def watch_once(plane: Plane) -> None:
    """One round; one that fails is logged and not the last."""
    try:
        watch(plane)
    except Exception:
        log.exception("A look at the teachers failed; the next one is in %.0f s", plane.settings.watch_seconds)


def watch(plane: Plane) -> None:
    """One round."""
    watched = _watched(plane)
    plane.misses.keep({each.id for each in watched})
    seen = _see_all(plane, watched)
    for each in watched:
        if (found := seen.get(each.id)) is not None:
            _record(plane, each, found)


def _see_all(plane: Plane, watched: Sequence[_Watched]) -> dict[str, _Seen]:
    """What is to be seen at these endpoints, several at once; one of which nothing can be said is absent."""
    left, seen = SimpleQueue[_Watched](), dict[str, _Seen]()
    for each in watched:
        left.put(each)

    def work() -> None:
        while True:
            try:
                each = left.get_nowait()
            except Empty:
                return
            try:
                found = _see(plane, each)
            except Exception:
                log.exception("Teacher %s at %s could not be looked at", each.teacher, each.url)
                continue
            if found is not None:
                seen[each.id] = found

    names = range(min(LOOKS_AT_ONCE, len(watched)))
    threads = [threading.Thread(target=work, name=f"watch-{name}", daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _watched(plane: Plane) -> Sequence[_Watched]:
    with plane.database.unit(writes=False) as unit:
        table, place, names = models.Teacher, models.Endpoint, used(unit.session, news.UNENDED)
        down = select(place.teacher_id).where(place.state == TeacherState.DOWN.value)
        wanted = select(table).where(table.name.in_(names) | table.id.in_(down)).order_by(table.name)
        teachers = unit.session.scalars(wanted).all()
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
