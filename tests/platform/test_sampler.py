"""A run whose rollouts another process writes, by processes: weights over HTTP before every step, tokens back."""

from __future__ import annotations

from preceptor.client import Client
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import RunCreate, RunState
from preceptor.wire.teachers import TeacherCreate
from tests.platform.stack import MODEL, OVERRIDES, TRAINING, Stack, answers, free_port, preceptor

STEPS = 3


def test_another_process_writes_by_the_weights_of_the_step_before(stack: Stack, client: Client) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    options = ("--model", str(MODEL), "--name", "pen", "--takes-weights", "--port", url.rpartition(":")[2])
    child = stack.spawn("pen", *preceptor("teacher", "serve", *options), TEACHER_KEY=stack.teacher_key)
    child.wait_until("ready", lambda: answers(f"{url}/readyz"))
    pen = client.teachers.add(TeacherCreate(name="pen", url=url, key_env="PRECEPTOR_TEACHER_KEY"))
    assert pen.card is not None and pen.card.writes
    stack.worker()
    student = client.artifacts.push(MODEL, "model", "tiny")
    wish = RunCreate(
        name="sampled",
        recipe="opsd",
        overrides=OVERRIDES,
        student=student,
        teachers={"self": "base"},
        sampler="pen",
        data=TaskSource(task="spell_backward"),
        training={**TRAINING, "steps": STEPS, "lora": {"rank": 2, "alpha": 4}},
    )
    run = client.runs.start(wish)
    list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    steps = list(client.runs.metrics(run.id))
    written = [step.ledger.teachers["sampler"] for step in steps]
    (first,) = written[0].weights_versions
    assert [each.weights_versions for each in written] == [[first + step] for step in range(STEPS)]
    for step, ledger in zip(steps, written, strict=True):
        assert ledger.sequences == step.ledger.rollouts and ledger.tokens == step.ledger.tokens["completion"]
        assert ledger.weights_bytes > 0 and ledger.bytes_received > 0
        assert step.metrics["sampler_gap/largest"] < 1e-4 and step.metrics["lag"] == 0
    child.stop()
