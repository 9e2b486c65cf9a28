"""One pair, one record: what each side's steps and evaluations tell, brought together and held against what the other
has published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.ledgers import added
from preceptor.wire import codistillations as wire
from preceptor.wire.pairs import PeerAnswers
from preceptor.wire.runs import StepReport, TeacherLedger
from preceptor_services.api.codistillations.service import get
from preceptor_services.api.runs import history
from preceptor_services.api.runs.pairs import BOTH, sides
from preceptor_services.db import models

GATE, OWN, THEIRS, TOLD, ALONE, WAITED = "gate/", "own/", "peer/", "feedback/", "peer_alone", "peer_waited_seconds"
"""Metrics that a side's steps carry."""


def record(session: Session, pair_id: str) -> wire.Record:
    """Raises NotFound."""
    get(session, pair_id)
    found = sides(session, pair_id)
    a, b = (_side(session, found[side].run_id, found[other].run_id) for side, other in BOTH)
    return wire.Record(id=pair_id, a=a, b=b)


def _side(session: Session, run_id: str, peer_id: str) -> wire.SideRecord:
    table = models.Step
    steps = list(session.scalars(select(table.report).where(table.run_id == run_id).order_by(table.step)))
    given = [each.ledger.teachers[wire.PEER] for each in steps if wire.PEER in each.ledger.teachers]
    heard = _heard(given)
    published = set(session.scalars(select(models.Publication.version).where(models.Publication.run_id == peer_id)))
    return wire.SideRecord(
        run=run_id,
        name=history.get(session, run_id).name,
        accuracy=tuple(_accuracy(session, run_id)),
        gates=tuple(gates(steps)),
        heard=tuple(heard),
        feedback=tuple(feedback(steps)),
        unreadable=sum(each.unreadable for each in given),
        unwritten=sum(each.unwritten for each in given),
        largest_lag=max((each.lag for each in heard), default=None),
        alone=tuple(each.step for each in steps if each.metrics.get(ALONE, 0.0) > 0),
        waited_seconds=sum(each.metrics.get(WAITED, 0.0) for each in steps),
        unpublished=tuple(sorted({each.version for each in heard} - published)),
    )


def gates(steps: Iterable[StepReport]) -> Iterable[wire.GateChange]:
    """When a side began to hear its peer in a domain, and when it ceased to."""
    last: dict[str, bool] = {}
    for step in steps:
        for name, value in sorted(step.metrics.items()):
            domain, opened = name.removeprefix(GATE), value > 0
            if name.startswith(GATE) and last.get(domain, False) is not opened:
                last[domain] = opened
                own, peer = (step.metrics.get(kind + domain, 0.0) for kind in (OWN, THEIRS))
                yield wire.GateChange(step=step.step, domain=domain, open=opened, own=own, peer=peer)


def feedback(steps: Iterable[StepReport]) -> Iterable[wire.FeedbackGiven]:
    """How many attempts a side's teacher read its peer's feedback on, by domain."""
    told = Counter[str]()
    for step in steps:
        told.update({n.removeprefix(TOLD): round(value) for n, value in step.metrics.items() if n.startswith(TOLD)})
    return [wire.FeedbackGiven(domain=domain, rollouts=count) for domain, count in sorted(told.items())]


def _heard(given: Sequence[TeacherLedger]) -> list[PeerAnswers]:
    mine = [{wire.PEER: TeacherLedger(answers=each.answers)} for each in given]
    return added(mine)[wire.PEER].answers if mine else []


def _accuracy(session: Session, run_id: str) -> Iterable[wire.DomainPoint]:
    table = models.Evaluation
    for each in session.scalars(select(table.evaluation).where(table.run_id == run_id).order_by(table.step)):
        whole = {"all": (each.correct, each.n)}
        parts = {name: (found.right, found.right + found.wrong) for name, found in each.domains.items()}
        for domain, (correct, n) in (parts or whole).items():
            yield wire.DomainPoint(step=each.step, domain=domain, n=n, correct=correct)
