"""`preceptor runs teachers`: who fills a run's roles, and who did."""

from __future__ import annotations

from preceptor.wire.runs import Run

Row = tuple[object, ...]


def roles_now(run: Run) -> list[Row]:
    """A row a role that somebody fills, or did."""
    roles = sorted({*run.teachers, *(each.role for each in run.refilled)})
    return [(role, run.teachers.get(role), run.fallbacks.get(role)) for role in roles]


def roles_then(run: Run) -> list[Row]:
    """A row a change, in their order."""
    return [(each.role, each.left, each.joined, each.at, each.step or "not yet") for each in run.refilled]
