"""One pair, one record, page by page: what each side's steps and evaluations tell, brought together and held against
what the other has published. A page is of so many steps of either side, however long the runs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel
from sqlalchemy import Text, cast, select
from sqlalchemy.orm import Session

from preceptor.ledgers import counted
from preceptor.wire import codistillations as wire
from preceptor.wire.pairs import PeerAnswers
from preceptor_services.api import cursors
from preceptor_services.api.codistillations.service import get
from preceptor_services.api.runs import history
from preceptor_services.api.runs.pairs import BOTH, SIDES, sides
from preceptor_services.db import models

GATE, OWN, THEIRS, TOLD, CUT = "gate/", "own/", "peer/", "feedback/", "feedback_cut/"
ALONE, WAITED = "peer_alone", "peer_waited_seconds"
"""Metrics that a side's steps carry."""
STEPS = 1000
"""Of either side, in a page."""
_AT_ONCE = 500
"""Versions that one query names."""


class _Heard(BaseModel):
    """What a step's ledger says of the peer, as far as the record tells it: reading whole reports takes ten times as
    long."""

    unreadable: int = 0
    unwritten: int = 0
    answers: list[PeerAnswers] = []


class _Ledger(BaseModel):
    teachers: dict[str, _Heard] = {}


class Told(BaseModel):
    """A recorded step, as far as the record tells it."""

    step: int
    metrics: dict[str, float]
    ledger: _Ledger = _Ledger()


def record(session: Session, pair_id: str, limit: int = STEPS, cursor: str | None = None) -> wire.Record:
    """The next `limit` steps of either side, and what was evaluated in them. Raises NotFound."""
    get(session, pair_id)
    after = 0 if cursor is None else cursors.number(cursor)
    found, last = sides(session, pair_id), after + limit
    a, b = (_side(session, found[side].run_id, found[other].run_id, after, last) for side, other in BOTH)
    more = any(history.get(session, found[side].run_id).step > last for side in SIDES)
    return wire.Record(id=pair_id, a=a, b=b, next_cursor=str(last) if more else None)


def _side(session: Session, run_id: str, peer_id: str, after: int, last: int) -> wire.SideRecord:
    steps = _steps(session, run_id, after, last)
    given = [each.ledger.teachers[wire.PEER] for each in steps if wire.PEER in each.ledger.teachers]
    heard = counted(one for each in given for one in each.answers)
    return wire.SideRecord(
        run=run_id,
        name=history.get(session, run_id).name,
        accuracy=tuple(_accuracy(session, run_id, after, last)),
        gates=tuple(gates(steps, _open(session, run_id, after))),
        heard=tuple(heard),
        feedback=tuple(feedback(steps)),
        unreadable=sum(each.unreadable for each in given),
        unwritten=sum(each.unwritten for each in given),
        largest_lag=max((each.lag for each in heard), default=None),
        alone=tuple(each.step for each in steps if each.metrics.get(ALONE, 0.0) > 0),
        waited_seconds=sum(each.metrics.get(WAITED, 0.0) for each in steps),
        unpublished=tuple(_unpublished(session, peer_id, sorted({each.version for each in heard}))),
    )


def _steps(session: Session, run_id: str, after: int, last: int) -> list[Told]:
    table = models.Step
    query = select(cast(table.report, Text)).where(table.run_id == run_id, table.step > after, table.step <= last)
    return [Told.model_validate_json(report) for report in session.scalars(query.order_by(table.step))]


def _open(session: Session, run_id: str, after: int) -> dict[str, bool]:
    """The gates after the page before: every step tells of all domains that were seen until then."""
    table = models.Step
    query = select(cast(table.report, Text)).where(table.run_id == run_id, table.step <= after)
    before = session.scalar(query.order_by(table.step.desc()).limit(1))
    return {} if before is None else dict(_gates(Told.model_validate_json(before)))


def gates(steps: Iterable[Told], before: Mapping[str, bool]) -> Iterable[wire.GateChange]:
    """When a side began to hear its peer in a domain, and when it ceased to."""
    now = dict(before)
    for step in steps:
        for domain, opened in _gates(step):
            if now.get(domain, False) is not opened:
                now[domain] = opened
                own, peer = (step.metrics.get(kind + domain, 0.0) for kind in (OWN, THEIRS))
                yield wire.GateChange(step=step.step, domain=domain, open=opened, own=own, peer=peer)


def _gates(step: Told) -> list[tuple[str, bool]]:
    found = sorted(step.metrics.items())
    return [(name.removeprefix(GATE), value > 0) for name, value in found if name.startswith(GATE)]


def feedback(steps: Sequence[Told]) -> Iterable[wire.FeedbackGiven]:
    """What its peer's feedback came to, by domain."""
    shown, cut = Counter[str](), Counter[str]()
    for counts, kind in ((shown, TOLD), (cut, CUT)):
        for step in steps:
            counts.update({n.removeprefix(kind): round(v) for n, v in step.metrics.items() if n.startswith(kind)})
    domains = sorted(shown.keys() | cut.keys())
    return [wire.FeedbackGiven(domain=each, rollouts=shown[each], sentences_cut=cut[each]) for each in domains]


def _unpublished(session: Session, peer_id: str, heard: Sequence[int]) -> Iterable[int]:
    table = models.Publication.version
    for first in range(0, len(heard), _AT_ONCE):
        asked = heard[first : first + _AT_ONCE]
        known = select(table).where(models.Publication.run_id == peer_id, table.in_(asked))
        yield from sorted(set(asked) - set(session.scalars(known)))


def _accuracy(session: Session, run_id: str, after: int, last: int) -> Iterable[wire.DomainPoint]:
    table = models.Evaluation
    first = after + 1 if after else 0  # the first page has what was found before any step
    query = select(table.evaluation).where(table.run_id == run_id, table.step.between(first, last))
    for each in session.scalars(query.order_by(table.step)):
        whole = {"all": (each.correct, each.n)}
        parts = {name: (found.right, found.right + found.wrong) for name, found in each.domains.items()}
        for domain, (correct, n) in (parts or whole).items():
            yield wire.DomainPoint(step=each.step, domain=domain, n=n, correct=correct)
