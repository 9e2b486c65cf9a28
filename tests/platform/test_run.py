"""One run, from REST to its result, by the services alone; the ledger and the teacher's own counters prove it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from preceptor.client import Client
from preceptor.wire.runs import Event, Run, RunState
from tests.platform.stack import MODEL, Stack, steps_of

STEPS, BATCH = 6, 4


@dataclass(frozen=True)
class Done:
    """A run that was watched from its start to its end."""

    run: Run
    events: list[Event]
    counted: dict[str, float]
    """How far the teacher's own counters moved meanwhile."""


@pytest.fixture(scope="module")
def done(stack: Stack) -> Done:
    stack.worker()
    with stack.client() as client:
        before = counters(stack)
        run = stack.start_run(client, "from-rest-to-result", steps=STEPS, batch=BATCH, seed=3)
        events = list(client.runs.events(run.id))
        after = counters(stack)
        return Done(client.runs.get(run.id), events, {name: after[name] - before.get(name, 0) for name in after})


def counters(stack: Stack) -> dict[str, float]:
    """The teacher's /metrics, summed over labels."""
    text = httpx.get(f"{stack.teacher_url}/metrics", headers={"Authorization": f"Bearer {stack.teacher_key}"}).text
    found = dict[str, float]()
    for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def test_it_succeeds_and_says_what_came_of_it(done: Done) -> None:
    assert done.run.state is RunState.SUCCEEDED, done.run.error
    assert (done.run.step, done.run.attempt) == (STEPS, 1)
    result = done.run.result
    assert result is not None and result.model is not None
    assert (result.task, result.n, result.steps) == ("spell_backward", 12, STEPS)
    assert result.gain == pytest.approx(result.after - result.before)
    assert result.ci95[0] <= result.gain <= result.ci95[1]


def test_everything_was_told_once_and_in_order(done: Done) -> None:
    states = [event.data["to"] for event in done.events if event.kind == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert steps_of(done.events) == [1, 2, 3, 4, 5, 6]
    assert [event.data["step"] for event in done.events if event.kind == "evaluation"] == [0, 3, 6]
    assert [event.data["step"] for event in done.events if event.kind == "checkpoint"] == [2, 4, 6]
    assert [event.id for event in done.events] == sorted({event.id for event in done.events})


def test_every_rollout_was_scored_over_http_and_every_score_is_stamped(done: Done, client: Client) -> None:
    """No shortcut goes round the services: scores = rollouts x contexts, on both sides of the wire."""
    steps = list(client.runs.metrics(done.run.id))
    for step in steps:
        ledger = step.ledger
        assert ledger.rollouts == BATCH
        assert ledger.contexts == BATCH * len(done.run.resolved["contexts"])
        assert ledger.scored_sequences == ledger.stamped_sequences == ledger.contexts
        asked = ledger.teachers["self"]
        assert asked.sequences == ledger.scored_sequences
        assert asked.tokens == ledger.tokens["completion"] > 0
        assert asked.requests >= 1 and asked.bytes_received > 0
        assert asked.weights_versions == [0]
    total = [step.ledger.teachers["self"] for step in steps]
    assert done.counted["preceptor_teacher_sequences_total"] == sum(each.sequences for each in total)
    assert done.counted["preceptor_teacher_scored_tokens_total"] == sum(each.tokens for each in total)
    assert done.counted["preceptor_teacher_received_bytes_total"] == sum(each.bytes_sent for each in total)
    assert done.counted["preceptor_teacher_sent_bytes_total"] == sum(each.bytes_received for each in total)


def test_samples_show_who_said_what(done: Done, client: Client) -> None:
    samples = list(client.runs.samples(done.run.id))
    assert [sample.step for sample in samples] == [1, 2, 3, 4, 5, 6]
    for sample in samples:
        stamp = sample.stamps["reference"]
        assert (stamp.teacher, stamp.temperature) == ("tiny", 1.0)
        assert all(set(token.teachers) == {"reference"} for token in sample.tokens)
        assert all(token.student <= 0 and token.teachers["reference"] <= 0 for token in sample.tokens)


def test_the_trained_student_can_be_pulled_and_opened(done: Done, client: Client, tmp_path: Path) -> None:
    from preceptor_trainer.model import load_model

    assert done.run.result is not None and done.run.result.model is not None
    folder = client.artifacts.pull(done.run.result.model, tmp_path / "student")
    trained, shipped = load_model(folder), load_model(MODEL)
    moved = [
        float((new - old).abs().max())
        for new, old in zip(trained.module.state_dict().values(), shipped.module.state_dict().values(), strict=True)
    ]
    assert max(moved) > 0
