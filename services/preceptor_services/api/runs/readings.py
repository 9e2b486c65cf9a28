"""What was recorded of a run: metrics as JSON and CSV, samples, evaluations."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.wire import runs as wire
from preceptor.wire.common import Page
from preceptor_services.api import cursors
from preceptor_services.api.runs import history
from preceptor_services.db import models
from preceptor_services.db.session import Database

ROWS = 500
"""Steps that are read from the database at once."""


def metrics(session: Session, run_id: str, limit: int, cursor: str | None) -> Page[wire.StepReport]:
    """Steps in order, each with its metrics and ledger."""
    history.get(session, run_id)
    found = _steps(session, run_id, 0 if cursor is None else cursors.number(cursor), limit + 1)
    more = str(found[limit - 1].step) if len(found) > limit else None
    return Page(items=tuple(found[:limit]), next_cursor=more)


def _steps(session: Session, run_id: str, after: int, limit: int) -> list[wire.StepReport]:
    table = models.Step
    query = select(table.report).where(table.run_id == run_id, table.step > after).order_by(table.step).limit(limit)
    return list(session.scalars(query))


def metrics_csv(database: Database, run_id: str) -> Iterator[str]:
    """All steps as CSV: a row a step; a column a metric, then `seconds.*`, `idle.*` and `tokens.*` of the ledger.

    Reads twice, since the columns have to be known before the first row: a metric may begin in mid-run. Each read is
    its own short unit of work, so that a slow reader holds nothing open. Steps that arrive in between are left out.
    """
    columns: dict[str, None] = {}
    last = 0
    for step in _every(database, run_id):
        columns |= dict.fromkeys(_flat(step))
        last = step.step
    header = ["step", *(name for name in columns if name != "step")]
    yield _line(header)
    for step in _every(database, run_id):
        if step.step > last:
            return
        values = _flat(step)
        yield _line([repr(values[name]) if name in values else "" for name in header])


def _every(database: Database, run_id: str) -> Iterator[wire.StepReport]:
    after = 0
    while True:
        with database.unit(writes=False) as unit:
            found = _steps(unit.session, run_id, after, ROWS)
        yield from found
        if len(found) < ROWS:
            return
        after = found[-1].step


def _flat(step: wire.StepReport) -> dict[str, float]:
    flat: dict[str, float] = {"step": step.step, **step.metrics}
    flat |= {f"seconds.{stage}": seconds for stage, seconds in step.ledger.seconds.items()}
    flat |= {f"idle.{what}": seconds for what, seconds in step.ledger.idle.items()}
    flat |= {f"tokens.{name}": count for name, count in step.ledger.tokens.items()}
    return flat


def _line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def samples(session: Session, run_id: str, step: int | None, limit: int, cursor: str | None) -> Page[wire.Sample]:
    """Rollouts that were kept, in order of step."""
    history.get(session, run_id)
    table = models.Sample
    query = select(table).where(table.run_id == run_id)
    if step is not None:
        query = query.where(table.step == step)
    if cursor is not None:
        at_step, number = (cursors.number(part) for part in cursors.decode(cursor, 2))
        query = query.where((table.step > at_step) | ((table.step == at_step) & (table.number > number)))
    found = list(session.scalars(query.order_by(table.step, table.number).limit(limit + 1)))
    last = found[limit - 1] if len(found) > limit else None
    more = None if last is None else cursors.encode(str(last.step), str(last.number))
    return Page(items=tuple(each.sample for each in found[:limit]), next_cursor=more)


def evaluations(session: Session, run_id: str) -> tuple[wire.Evaluation, ...]:
    """The student on held-out tasks, in order of step."""
    history.get(session, run_id)
    table = models.Evaluation
    return tuple(session.scalars(select(table.evaluation).where(table.run_id == run_id).order_by(table.step)))
