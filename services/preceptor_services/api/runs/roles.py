"""Who is asked by a run: its teachers and their fallbacks, by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.wire.teachers import OWN_BASE
from preceptor_services.db import models


@dataclass(frozen=True, slots=True)
class Roles:
    """Teacher names by role."""

    teachers: dict[str, str] = field(default_factory=dict[str, str])
    fallbacks: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def registered(self) -> dict[str, str]:
        """The teachers that are registered: all but a student's own base."""
        return {role: name for role, name in self.teachers.items() if name != OWN_BASE}


def roles_of(session: Session, run_ids: Sequence[str]) -> dict[str, Roles]:
    """The roles of these runs, by run. A run without roles is absent."""
    table = models.RunTeacher
    found: dict[str, Roles] = {}
    for each in session.scalars(select(table).where(table.run_id.in_(run_ids)).order_by(table.role)):
        roles = found.setdefault(each.run_id, Roles())
        roles.teachers[each.role] = each.teacher
        if each.fallback is not None:
            roles.fallbacks[each.role] = each.fallback
    return found


def rows(run_id: str, roles: Roles) -> list[models.RunTeacher]:
    """What is kept of a run's roles."""
    return [
        models.RunTeacher(run_id=run_id, role=role, teacher=name, fallback=roles.fallbacks.get(role))
        for role, name in sorted(roles.teachers.items())
    ]
