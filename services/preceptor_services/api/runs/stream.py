"""A run's events as they come: `text/event-stream`.

    id: 7
    event: step
    data: {"id": 7, "run_id": ..., "kind": "step", "data": {...}}

`Last-Event-ID` says where to go on. After the last event of a run that has ended comes an event `end`, then nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from preceptor.errors import NotFound
from preceptor.wire.runs import Event
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history

BATCH = 200
LOOK_SECONDS = 1.0
"""How long to wait for the bell before looking anyway: another process may have written."""
ALIVE_SECONDS = 15.0
"""How often a line is sent where there is nothing to tell, so that nobody on the way takes the connection for dead."""


async def stream(plane: Plane, run_id: str, after: int, follow: bool) -> AsyncIterator[str]:
    """The events after `after`; with `follow`, until the run has ended."""
    quiet = 0.0
    while True:
        bell = plane.bell.next()
        try:
            events, ended = await run_in_threadpool(_read, plane, run_id, after)
        except NotFound:
            return
        for event in events:
            yield _frame(event)
            after = event.id
        if events:
            quiet = 0.0
        if len(events) == BATCH:
            continue
        if ended or not follow:
            yield "event: end\ndata: {}\n\n"
            return
        if plane.bell.closed:
            return  # without an `end`: whoever watches comes back when the control plane does
        try:
            await asyncio.wait_for(bell.wait(), LOOK_SECONDS)
        except TimeoutError:
            quiet += LOOK_SECONDS
        if quiet >= ALIVE_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"


def _read(plane: Plane, run_id: str, after: int) -> tuple[list[Event], bool]:
    with plane.database.unit(writes=False) as unit:
        return history.events(unit.session, run_id, after, BATCH)


def _frame(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
