"""What came of skills: counted once a run and step, and summed up as usefulness."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, func, select
from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.skills.usefulness import outcome_lift, support_lift
from preceptor.wire import skills as wire
from preceptor_services.db import models

_COUNTS = ("used", "shown", "shown_right", "plain", "plain_right", "right_n", "wrong_n")
_SUMS = ("right_total", "right_squares", "wrong_total", "wrong_squares")
_MANY = 500
"""More skills than this are summed up over the whole bank: SQLite bounds the variables of a query."""


def record(session: Session, bank: models.SkillBank, report: wire.SkillUses, at: datetime) -> wire.UsesRecorded:
    """Count uses that are not counted yet: after a kill, a worker reports steps again. The bank is locked.

    Raises Invalid where a skill is named twice or was never in the bank.
    """
    numbers = [each.number for each in report.uses]
    seen: set[int] = set()
    for index, number in enumerate(numbers):
        field = f"uses.{index}.number"
        if number > bank.last_number:
            raise Invalid(
                f"{field}: skill bank {bank.name} never had a skill {number}; its last is {bank.last_number}.",
                field=field,
            )
        if number in seen:
            raise Invalid(f"{field}: skill {number} is named twice.", field=field, remedy="Add its counts up.")
        seen.add(number)
    table = models.SkillUse
    query = select(table.number).where(table.bank == bank.name, table.run_id == report.run, table.step == report.step)
    counted = set(session.scalars(query))
    new = [each for each in report.uses if each.number not in counted]
    session.add_all(_row(bank.name, report, each, at) for each in new)
    return wire.UsesRecorded(recorded=len(new))


def _row(bank: str, report: wire.SkillUses, use: wire.SkillUse, at: datetime) -> models.SkillUse:
    counts = {name: getattr(use, name) for name in ("used", "shown", "shown_right", "plain", "plain_right")}
    moments = {
        f"{side}_{name}": value
        for side in ("right", "wrong")
        for name, value in getattr(use, f"support_{side}").model_dump().items()
    }
    row = {"bank": bank, "number": use.number, "run_id": report.run, "step": report.step, "at": at}
    return models.SkillUse(**row, **counts, **moments)


def usefulness_of(session: Session, bank: str, numbers: Sequence[int]) -> dict[int, wire.Usefulness]:
    """What skills were measured to be worth, over all runs; those that were never used are left out."""
    table = models.SkillUse
    columns = [func.sum(getattr(table, name)).label(name) for name in (*_COUNTS, *_SUMS)]
    query = select(table.number, *columns).where(table.bank == bank).group_by(table.number)
    if len(numbers) <= _MANY:
        query = query.where(table.number.in_(numbers))
    wanted = set(numbers)
    return {row.number: _usefulness(row._mapping) for row in session.execute(query) if row.number in wanted}


def _usefulness(row: RowMapping) -> wire.Usefulness:
    counts = {name: int(row[name]) for name in _COUNTS}  # PostgreSQL sums whole numbers to decimals
    right, wrong = (
        wire.Moments(n=counts[f"{side}_n"], total=row[f"{side}_total"], squares=row[f"{side}_squares"])
        for side in ("right", "wrong")
    )
    return wire.Usefulness(
        used=counts["used"],
        outcome=outcome_lift(counts["shown"], counts["shown_right"], counts["plain"], counts["plain_right"]),
        support=support_lift(right, wrong),
    )
