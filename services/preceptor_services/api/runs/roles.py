"""Who is asked by a run: its teachers and their fallbacks, by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.wire.fillings import Refilled
from preceptor.wire.runs import RunCreate
from preceptor.wire.teachers import OWN_BASE, SAMPLER
from preceptor_services.db import models


@dataclass(slots=True)
class Roles:
    """Teacher names by role."""

    teachers: dict[str, str] = field(default_factory=dict[str, str])
    fallbacks: dict[str, str] = field(default_factory=dict[str, str])
    sampler: str | None = None
    """Who writes the rollouts; None: the worker."""
    refilled: tuple[Refilled, ...] = ()
    """Teachers that others have replaced."""

    @property
    def registered(self) -> dict[str, str]:
        """Who is registered: all teachers but a student's own base, and the sampler."""
        found = {role: name for role, name in self.teachers.items() if name != OWN_BASE}
        return found if self.sampler is None else {**found, SAMPLER: self.sampler}

    @property
    def names(self) -> set[str]:
        """All that are registered, fallbacks included."""
        return {*self.registered.values(), *self.fallbacks.values()}


def roles_of(session: Session, run_ids: Sequence[str]) -> dict[str, Roles]:
    """The roles of these runs, by run. A run without roles is absent."""
    table = models.RunTeacher
    found: dict[str, Roles] = {}
    for each in session.scalars(select(table).where(table.run_id.in_(run_ids)).order_by(table.role)):
        roles = found.setdefault(each.run_id, Roles())
        if each.role == SAMPLER:
            roles.sampler = each.teacher
            continue
        roles.teachers[each.role] = each.teacher
        if each.fallback is not None:
            roles.fallbacks[each.role] = each.fallback
    changes = models.Refill
    for each in session.scalars(select(changes).where(changes.run_id.in_(run_ids)).order_by(changes.number)):
        roles = found.setdefault(each.run_id, Roles())
        told = Refilled(role=each.role, left=each.left, joined=each.joined, at=each.at, step=each.step)
        roles.refilled = (*roles.refilled, told)
    return found


def asked_by(wish: RunCreate) -> Roles:
    """Whom a wish for a run names."""
    return Roles(wish.teachers, wish.fallbacks, wish.sampler)


def rows(run_id: str, roles: Roles) -> list[models.RunTeacher]:
    """What is kept of a run's roles."""
    asked = roles.teachers if roles.sampler is None else {**roles.teachers, SAMPLER: roles.sampler}
    return [
        models.RunTeacher(run_id=run_id, role=role, teacher=name, fallback=roles.fallbacks.get(role))
        for role, name in sorted(asked.items())
    ]
