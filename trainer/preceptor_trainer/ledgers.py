"""Where a step's time and traffic went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from preceptor.ledgers import added
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Ledger, TeacherLedger
from preceptor_trainer.asking import Asked
from preceptor_trainer.batch import Row
from preceptor_trainer.flow import Taken, Times
from preceptor_trainer.sharing import Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a rank has done of a step, without what only the learner needs. Counts are those of `Asked`."""

    rows: Sequence[Written]
    contexts: int
    scored: int
    stamped: int
    masked: int | None
    unrouted: int
    debates: Sequence[HeldDebate]
    teachers: Mapping[str, TeacherLedger]
    learned: int
    """Positions that went through the student."""
    counts: Mapping[str, float]
    """Metrics that add up over ranks."""


SHARE = TypeAdapter(Share)


def share_of(rows: Sequence[Written], asked: Asked, taken: Taken, learned: int, counts: Mapping[str, float]) -> Share:
    """Of these rollouts; `learned` positions went through the student for them, and `counts` were counted, beside what
    the parts' texts come to."""
    teachers = added([part.teachers for part in taken.parts])
    told = _summed([part.heard.told for part in taken.parts if part.heard is not None])
    return Share(
        rows=rows,
        contexts=asked.contexts,
        scored=asked.scored,
        stamped=asked.stamped,
        masked=asked.masked,
        unrouted=asked.unrouted,
        debates=asked.debates,
        teachers=teachers,
        learned=learned,
        counts={**counts, **told},
    )


def counted(shares: Sequence[Share]) -> dict[str, float]:
    """What all ranks have counted."""
    return _summed([share.counts for share in shares])


def _summed(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name: None for counts in each for name in counts}
    return {name: sum(counts.get(name, 0.0) for counts in each) for name in names}


def ledger_of(rows: Sequence[Row], shares: Sequence[Share], times: Times) -> Ledger:
    """Of the step that was shared so; `rows` are all ranks'. `times` are the first rank's own."""
    groups = {(row.task.id, row.prompt_ids) for row in rows}
    masks = [share.masked for share in shares if share.masked is not None]
    masked = {"masked": sum(masks)} if masks else {}
    return Ledger(
        seconds=dict(times.seconds),
        idle=dict(times.idle),
        tokens={
            "prompt": sum(len(row.prompt_ids) for row in rows),
            "prompt_read": sum(len(prompt) for _, prompt in groups),
            "completion": sum(len(row.completion_ids) for row in rows),
            "learned": sum(share.learned for share in shares),
            **masked,
        },
        rollouts=len(rows),
        contexts=sum(share.contexts for share in shares),
        scored_sequences=sum(share.scored for share in shares),
        stamped_sequences=sum(share.stamped for share in shares),
        unrouted=sum(share.unrouted for share in shares),
        teachers=added([share.teachers for share in shares]),
    )
