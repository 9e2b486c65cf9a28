"""Where a step's time and traffic went."""

from __future__ import annotations

from preceptor.ledgers import added
from preceptor.wire.runs import Ledger
from preceptor_trainer.asking import Asked
from preceptor_trainer.batch import Batch
from preceptor_trainer.pipeline import Taken


def ledger_of(batch: Batch, asked: Asked, taken: Taken, learned: int) -> Ledger:
    """Of the step that learned from this batch; `learned` positions went through the student for it."""
    groups = {(row.task.id, row.prompt_ids) for row in batch.rows}
    masked = {} if asked.masked is None else {"masked": asked.masked}
    return Ledger(
        seconds=dict(taken.times.seconds),
        idle=dict(taken.times.idle),
        tokens={
            "prompt": sum(len(row.prompt_ids) for row in batch.rows),
            "prompt_read": sum(len(prompt) for _, prompt in groups),
            "completion": batch.tokens,
            "learned": learned,
            **masked,
        },
        rollouts=len(batch.rows),
        contexts=asked.contexts,
        scored_sequences=asked.scored,
        stamped_sequences=asked.stamped,
        teachers=added([part.teachers for part in taken.parts]),
    )
