"""A run whose self-teacher follows its student, by processes: weights over HTTP after every step, scores by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.endpoint import TeacherClient
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunCreate, RunState
from preceptor.wire.teachers import TeacherCreate
from tests.platform.stack import MODEL, OVERRIDES, TRAINING, Stack, answers, free_port, preceptor

STEPS = 4


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[str]:
    """The URL of a teacher that takes weights, registered as `own`."""
    url = f"http://127.0.0.1:{free_port()}"
    options = ("--model", str(MODEL), "--name", "own", "--takes-weights", "--port", url.rpartition(":")[2])
    child = stack.spawn("own", *preceptor("teacher", "serve", *options), TEACHER_KEY=stack.teacher_key)
    child.wait_until("ready", lambda: answers(f"{url}/readyz"))
    with stack.client() as client:
        teacher = client.teachers.add(TeacherCreate(name="own", url=url, key_env="PRECEPTOR_TEACHER_KEY"))
    assert teacher.card is not None and teacher.card.moves and teacher.card.weights_hash is not None
    yield url
    child.stop()


def finished(stack: Stack, client: Client, name: str, **training: Any) -> Run:
    stack.worker()
    student = client.artifacts.push(MODEL, "model", "tiny")
    wish = RunCreate(
        name=name,
        recipe="opsd",
        overrides={**OVERRIDES, "teacher": {"kind": "ema", "decay": 0.9}},
        student=student,
        teachers={"self": "own"},
        data=TaskSource(task="spell_backward"),
        training={**TRAINING, "steps": STEPS, **training},
    )
    run = client.runs.start(wish)
    list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    return run


def test_every_step_is_scored_by_the_weights_of_the_step_before(stack: Stack, own: str, client: Client) -> None:
    with TeacherClient(own, stack.teacher_key) as teacher:
        before = teacher.card()
        run = finished(stack, client, "follows")
        after = teacher.card()
    asked = [step.ledger.teachers["self"] for step in client.runs.metrics(run.id)]
    first = before.weights_version + 1
    assert [each.weights_versions for each in asked] == [[version] for version in range(first, first + STEPS)]
    assert after.weights_version == first + STEPS and after.weights_hash != before.weights_hash
    size = (MODEL / "model.safetensors").stat().st_size
    assert all(each.weights_bytes > 0.9 * size for each in asked)
    # A head once (not at all where this worker has had another teacher with the same one), then what of it has changed.
    assert before.head is not None
    head = 4 * before.tokenizer.vocab_size * before.head.hidden_size
    assert asked[0].head_bytes == 0 or asked[0].head_bytes > head
    assert all(0 < each.head_bytes < head for each in asked[1:])


def test_of_a_student_with_adapters_only_those_are_sent(stack: Stack, own: str, client: Client) -> None:
    """After a run that left whole weights of its own there: the base comes first."""
    run = finished(stack, client, "adapted", lora={"rank": 2, "alpha": 4})
    asked = [step.ledger.teachers["self"] for step in client.runs.metrics(run.id)]
    versions = [version for each in asked for version in each.weights_versions]
    assert versions == list(range(versions[0], versions[0] + STEPS))
    size = (MODEL / "model.safetensors").stat().st_size
    assert size < asked[0].weights_bytes and all(0 < each.weights_bytes < size / 5 for each in asked[1:])
    assert all(each.head_bytes == 0 for each in asked[1:]), "a head that did not move is not fetched again"
