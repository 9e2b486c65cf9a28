"""A run that is repeated on a worker that keeps scores: the same numbers, and nobody is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.wire.runs import Run, RunState, StepReport
from tests.platform.stack import Child, Stack
from tests.platform.test_run import counters

PLAN: dict[str, Any] = {"steps": 6, "seed": 21}


@pytest.fixture
def keeper(stack: Stack) -> Iterator[Child]:
    """The only worker: it keeps scores, as workers do unless they are told otherwise."""
    for worker in stack.workers:
        if worker.popen.poll() is None:
            worker.stop()
    worker = stack.start_worker(f"keeper-{len(stack.workers)}", SCORE_CACHE_BYTES=str(2**28))
    yield worker
    worker.stop()


def done(stack: Stack, client: Client, name: str) -> tuple[Run, list[StepReport]]:
    run = stack.start_run(client, name, **PLAN)
    assert list(client.runs.events(run.id))
    return client.runs.get(run.id), list(client.runs.metrics(run.id))


def test_a_run_that_is_repeated_asks_nobody_and_learns_the_same(stack: Stack, client: Client, keeper: Child) -> None:
    first, steps = done(stack, client, "cold")
    before = counters(stack)
    second, again = done(stack, client, "warm")
    after = counters(stack)
    assert first.state is second.state is RunState.SUCCEEDED, second.error
    assert [step.metrics["loss"] for step in again] == [step.metrics["loss"] for step in steps]
    for step in again:
        ledger = step.ledger.teachers["self"]
        assert (ledger.requests, ledger.sequences) == (0, 0)
        assert ledger.cache_hits == step.ledger.scored_sequences == step.ledger.stamped_sequences > 0
    scored = "preceptor_teacher_sequences_total"
    assert after[scored] == before[scored], "the teacher says so too"
