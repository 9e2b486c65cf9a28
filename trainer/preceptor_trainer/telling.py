"""What is told of a step: numbers on its rollouts, and some of them whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preceptor.wire.runs import Sample, TokenScore
from preceptor_trainer.batch import Batch, Row, share_spans
from preceptor_trainer.guards import repetition


def describe(rows: Sequence[Row], seconds: float) -> dict[str, float]:
    """What the step's rollouts were like."""
    tokens = sum(len(row.completion_ids) for row in rows)
    verdicts = [row.verdict for row in rows if row.verdict is not None]
    count = max(len(rows), 1)
    metrics = {
        "completion_length": tokens / count,
        "truncated": sum(not row.finished for row in rows) / count,
        "repetition": repetition(rows),
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }
    if verdicts:
        metrics["reward"] = sum(verdict.reward for verdict in verdicts) / len(verdicts)
        metrics["train_accuracy"] = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    return metrics


def samples_of(batch: Batch, count: int, text: Callable[[Sequence[int]], str]) -> list[Sample]:
    """The batch's first rollouts, with what everyone thought of every token."""
    batch = share_spans(batch, batch.behaviour.logprob_T, fill=False)
    return [_sample(batch, index, text) for index in range(min(count, len(batch.rows)))]


def _sample(batch: Batch, index: int, text: Callable[[Sequence[int]], str]) -> Sample:
    row, begin = batch.rows[index], batch.offsets[index]
    opinions = {
        f"{name}/{k}" if len(slots) > 1 else name: slot
        for name, slots in batch.slots.items()
        for k, slot in enumerate(slots)
        if index in slot.stamps
    }
    logprobs = row.logprobs or (float("nan"),) * len(row.completion_ids)
    return Sample(
        step=batch.step,
        task_id=row.task.id,
        prompt=row.task.messages[-1]["content"],
        completion=row.text,
        reward=row.verdict.reward if row.verdict else float("nan"),
        tokens=[
            TokenScore(
                token=token,
                text=text([token]),
                student=logprobs[t],
                teachers={
                    name: float(slot.logprob_T[begin + t])
                    for name, slot in opinions.items()
                    if slot.present_T[begin + t] > 0
                },
            )
            for t, token in enumerate(row.completion_ids)
        ],
        stamps={name: slot.stamps[index] for name, slot in opinions.items()},
    )
