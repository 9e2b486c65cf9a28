"""What a run's worker hears of its teachers while it goes on, followed on all of its ranks.

Endpoints are followed at once. Another teacher is from a step on of which nobody has been asked anything yet: when the
loop asks for a signal, every rank waits for the same step, and none works on a later one than `max_lag` lets it. Where
that step waits in vain for whoever is to leave, the change is brought forward: all ranks ask about it anew.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from preceptor.pool import TeacherPool
from preceptor.replicas import Changes
from preceptor.wire.runs import LeaseGrant
from preceptor_services.worker.lease import Endpoints, Lease, Refilled
from preceptor_services.worker.reporter import RunReporter


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What the first rank has heard, for all."""

    endpoints: Endpoints
    """Those that are now in use, by role."""
    refilled: Refilled
    """Whom to ask from `step` on, by role; None: nobody."""
    step: int


NEWS = TypeAdapter[News | None](News | None)


class Following:
    """The first rank's part of it."""

    def __init__(self, grant: LeaseGrant, lease: Lease, reporter: RunReporter, pool: TeacherPool) -> None:
        self._lease, self._reporter, self._pool = lease, reporter, pool
        self._peer = None if grant.pair is None else grant.pair.role
        self._ahead = 2 + grant.run.training.max_lag
        """From the last step that is done to the first that nobody works on."""
        self._fills: dict[str, str | None] = dict(grant.run.teachers)
        self._told: dict[str, object] = {}
        self._heard: list[Endpoints] = []
        self._turn = threading.Lock()
        """Endpoints of whoever is to leave, heard before that was known, must not become those of whoever joins."""

    def update(self, endpoints: Endpoints) -> Mapping[str, Changes]:
        """Endpoints have come or gone: called from any thread."""
        with self._turn:
            mine = {role: each for role, each in endpoints.items() if role != self._peer and role not in self._told}
            self._heard[:] = [mine]
            return self._pool.update(mine)

    def news(self) -> News | None:
        """What is new since the last time, for all ranks; None: nothing. Called while the loop waits for a step."""
        new = {role: each for role, each in self._lease.refilled.items() if self._told.get(role, self) != each}
        heard = self._heard.pop() if self._heard else {}
        endpoints = {role: each for role, each in heard.items() if role not in self._told}
        if not new and not endpoints:
            return None
        return News(endpoints=endpoints, refilled=new, step=self._reporter.step_done + self._ahead)

    def hear(self, news: News) -> None:
        """Follow what is not followed yet. Raises Invalid where the key of a teacher is not set here."""
        with self._turn:
            self._told |= news.refilled
            self._pool.refill(news.refilled, news.step)
        for role, teacher in news.refilled.items():
            before, now = self._fills.get(role), None if teacher is None else teacher.name
            self._fills[role] = now
            if before != now:
                self._reporter.refilled(role, before, now, news.step)


def hear_along(pool: TeacherPool, news: News) -> None:
    """The same on any other rank."""
    pool.update(news.endpoints)
    pool.refill(news.refilled, news.step)
