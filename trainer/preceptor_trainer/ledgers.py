"""Where a step's time and traffic went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preceptor.wire.runs import Ledger, TeacherLedger
from preceptor_trainer.asking import Asked
from preceptor_trainer.batch import Batch
from preceptor_trainer.pipeline import Taken


def ledger_of(batch: Batch, asked: Asked, taken: Taken) -> Ledger:
    """Of the step that learned from this batch."""
    groups = {(row.task.id, row.prompt_ids) for row in batch.rows}
    masked = {} if asked.masked is None else {"masked": asked.masked}
    return Ledger(
        seconds=dict(taken.times.seconds),
        idle=dict(taken.times.idle),
        tokens={
            "prompt": sum(len(row.prompt_ids) for row in batch.rows),
            "prompt_read": sum(len(prompt) for _, prompt in groups),
            "completion": batch.tokens,
            **masked,
        },
        rollouts=len(batch.rows),
        contexts=asked.contexts,
        scored_sequences=asked.scored,
        stamped_sequences=asked.stamped,
        teachers=added([part.teachers for part in taken.parts]),
    )


def added(ledgers: Sequence[Mapping[str, TeacherLedger]]) -> dict[str, TeacherLedger]:
    """Several ledgers as one, by role: counts add up, lists and maps are joined."""
    total: dict[str, TeacherLedger] = {}
    for ledger in ledgers:
        for role, each in ledger.items():
            total[role] = _sum(total[role], each) if role in total else each
    return total


def _sum(first: TeacherLedger, second: TeacherLedger) -> TeacherLedger:
    sums: dict[str, object] = {}
    for name in TeacherLedger.model_fields:
        one, other = getattr(first, name), getattr(second, name)
        if isinstance(one, list):
            sums[name] = sorted({*one, *other})
        elif isinstance(one, dict):
            sums[name] = {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
        else:
            sums[name] = one + other
    return TeacherLedger.model_validate(sums)
