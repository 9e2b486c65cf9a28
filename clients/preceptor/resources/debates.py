"""Debates: start them, see what was said, and, for a worker, hold them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from preceptor.connection import Connection
from preceptor.errors import PreceptorError
from preceptor.wire.debate_reports import (
    MOST_HELD,
    DebateFinish,
    DebateGrant,
    HeldDebate,
    HeldReport,
    KnownDebate,
    KnownWish,
    RunWish,
    TurnsReport,
)
from preceptor.wire.debates import (
    Debate,
    DebateCreate,
    DebateState,
    DebateTemplate,
    DebateTemplateCreate,
    DebateTurn,
    StoredTemplate,
)
from preceptor.wire.runs import Heartbeat, LeaseRequest, LeaseStatus

Wanted = TypeVar("Wanted", bound=RunWish)
PORTION_BYTES = 2**20
"""Most that a body with a run's debates holds."""


class Debates:
    """Debates of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- for whoever has a question -----------------------------------------------------------------------------------

    def start(self, create: DebateCreate, *, idempotency_key: str | None = None) -> Debate:
        """Queue a debate; where the same one was held before, it comes back at once with what came of that.

        The same key with the same wish gives the same debate. Raises Invalid, naming the field, where the wish cannot
        be carried out; Conflict where the key was used for another wish.
        """
        return self._connection.start(Debate, "/v1/debates", create, idempotency_key)

    def list(
        self, *, state: DebateState | None = None, run: str | None = None, step: int | None = None
    ) -> Iterator[Debate]:
        """Debates, newest first, without what was said; fetched page by page. Those that were asked for, or those that
        a run held for itself: in one step, or in all."""
        return self._connection.pages(Debate, "/v1/debates", {"state": state, "run": run, "step": step})

    def get(self, debate_id: str) -> Debate:
        """One debate, with what was said so far. Raises NotFound."""
        return self._connection.get(Debate, f"/v1/debates/{debate_id}")

    def cancel(self, debate_id: str) -> Debate:
        """Ask for it to be cancelled: at once while it is queued, within a heartbeat while it is running."""
        return self._connection.post(Debate, f"/v1/debates/{debate_id}/cancel", twice_is_once=True)

    def wait(self, debate_id: str, *, seconds: float = 600.0, every: float = 0.5) -> Debate:
        """The debate once it has ended. Raises PreceptorError where it has not within so many seconds."""
        until = time.monotonic() + seconds
        while not (debate := self.get(debate_id)).state.ended:
            if time.monotonic() > until:
                raise PreceptorError(
                    f"Debate {debate_id} is {debate.state.value} after {seconds:g} s.",
                    remedy="Is there a worker that takes debates, and is it free? `preceptor worker --takes debates`.",
                )
            time.sleep(every)
        return debate

    def store_template(self, name: str, template: DebateTemplate) -> StoredTemplate:
        """Store the next version of a template; the latest again where it says the same."""
        wish = DebateTemplateCreate(name=name, template=template)
        return self._connection.post(StoredTemplate, "/v1/debate-templates", wish, twice_is_once=True)

    def templates(self) -> tuple[StoredTemplate, ...]:
        """All versions of all templates, by name."""
        return self._connection.get(tuple[StoredTemplate, ...], "/v1/debate-templates")

    def template(self, pinned: str) -> StoredTemplate:
        """A template, as `name@version`, or `name` for its latest version. Raises NotFound."""
        return self._connection.get(StoredTemplate, f"/v1/debate-templates/{pinned}")

    # -- for a worker -------------------------------------------------------------------------------------------------

    def lease(self, debate_id: str, worker: str) -> DebateGrant:
        """Take the right to hold a debate. Raises Conflict where another worker has it, or there is nothing to do."""
        return self._connection.post(DebateGrant, f"/v1/debates/{debate_id}/lease", LeaseRequest(worker=worker))

    def heartbeat(self, debate_id: str, fence: int) -> LeaseStatus:
        """Keep the lease. Raises LeaseLost where it has ended."""
        answer = self._connection.send("PUT", f"/v1/debates/{debate_id}/lease", body=Heartbeat(fence=fence))
        return self._connection.parse(LeaseStatus, answer)

    def release(self, debate_id: str, fence: int) -> None:
        """Give the lease back: the debate is queued again."""
        self._connection.send("DELETE", f"/v1/debates/{debate_id}/lease", params={"fence": fence})

    def record(self, debate_id: str, fence: int, turns: Sequence[DebateTurn]) -> LeaseStatus:
        """Record what was said. What is recorded already is left as it is."""
        report = TurnsReport(fence=fence, turns=tuple(turns))
        return self._connection.post(LeaseStatus, f"/v1/debates/{debate_id}/turns", report, twice_is_once=True)

    def finish(self, debate_id: str, finish: DebateFinish) -> Debate:
        """End the debate and the lease."""
        return self._connection.post(Debate, f"/v1/debates/{debate_id}/finish", finish, twice_is_once=True)

    def known(self, run_id: str, wishes: Sequence[RunWish]) -> tuple[KnownDebate | None, ...]:
        """For each debate that a run would hold the one that was held before; None: there is none."""
        path, kind = f"/v1/runs/{run_id}/debates/known", tuple[KnownDebate | None, ...]
        asked = (KnownWish(wishes=some) for some in _portions(wishes))
        return tuple(each for some in asked for each in self._connection.post(kind, path, some, twice_is_once=True))

    def record_held(self, run_id: str, fence: int, held: Sequence[HeldDebate]) -> LeaseStatus:
        """Record debates that a run has held, in as many reports as they take. What is recorded already is left as it
        is."""
        path = f"/v1/runs/{run_id}/debates"
        reports = (HeldReport(fence=fence, debates=some) for some in _portions(held))
        return [self._connection.post(LeaseStatus, path, each, twice_is_once=True) for each in reports][-1]


def _portions(held: Sequence[Wanted]) -> Iterator[tuple[Wanted, ...]]:
    """Some at a time, so that no body is too large: a debate alone where it is larger than that."""
    portion, size = list[Wanted](), 0
    for each in held:
        own = len(each.model_dump_json())
        if portion and (size + own > PORTION_BYTES or len(portion) == MOST_HELD):
            yield tuple(portion)
            portion, size = [], 0
        portion.append(each)
        size += own
    yield tuple(portion)
