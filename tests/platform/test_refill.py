"""A teacher of a run that goes on is replaced, by processes: refused, followed between two steps, told by its step."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.runs import Run, RunState
from tests.platform.stack import Child, Stack, answers, free_port, preceptor, steps_of, until

STEPS = 40


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[Child]:
    """The only worker: it may start two ranks."""
    for each in stack.workers:
        if each.popen.poll() is None:
            each.stop()
    child = stack.start_worker("refilled", DEVICES="2")
    yield child
    child.stop()


@pytest.fixture(scope="module")
def other(stack: Stack) -> Iterator[str]:
    """The URL of another teacher, registered as `other`."""
    url = f"http://127.0.0.1:{free_port()}"
    child = stack.start_teacher(url, "other", log="teacher-other")
    child.wait_until("ready", lambda: answers(f"{url}/readyz"))
    with stack.client() as client:
        stack.register_teacher(client, "other", url)
    yield url
    child.kill()


def command(stack: Stack, *arguments: str) -> Run:
    """What `preceptor runs teachers` says as JSON."""
    done = subprocess.run(
        preceptor("runs", "teachers", *arguments, "--json", "--url", stack.url),
        env=stack.environment(KEY=stack.admin_key),
        capture_output=True,
        text=True,
        check=True,
    )
    return Run.model_validate_json(done.stdout)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("devices", [1, 2])
def test_a_teacher_of_a_running_run_is_replaced(stack: Stack, client: Client, other: str, devices: int) -> None:
    plan: dict[str, Any] = {"steps": STEPS, "samples_kept": 1, "evaluate_every": STEPS, "checkpoint_every": STEPS}
    run = stack.start_run(client, f"refilled-{devices}", devices=devices, **plan)
    events = client.runs.events(run.id)
    assert steps_of(until(events, lambda event: event.kind == "step"))
    with pytest.raises(Invalid, match="there is no teacher 'nobody'"):
        client.runs.refill(run.id, {"self": "nobody"})
    assert client.runs.get(run.id).refilled == () and command(stack, run.id).teachers == {"self": "tiny"}
    asked_for = command(stack, run.id, "--set", "self=other")
    assert asked_for.teachers == {"self": "other"} and asked_for.state is RunState.RUNNING
    told = list(events)

    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED and run.attempt == 1, run.error
    (refill,) = run.refilled
    assert (refill.role, refill.left, refill.joined) == ("self", "tiny", "other")
    first = refill.step
    assert first is not None and asked_for.step < first <= STEPS, "not in a step that was done by then"
    messages = [event.data["message"] for event in told if event.kind == "note"]
    assert f"Role self: from step {first} on other is asked" in messages

    for step in client.runs.metrics(run.id):
        ledger, now = step.ledger.teachers["self"], "other" if step.step >= first else "tiny"
        assert ledger.endpoints.keys() == {other if now == "other" else stack.teacher_url}, "no step is asked of both"
        came = (ledger.teachers_left, ledger.teachers_joined, ledger.left, ledger.joined)
        changed = (["tiny"], ["other"], [stack.teacher_url], [other])
        assert came == (changed if step.step == first else ([], [], [], [])), step.step
        assert step.ledger.scored_sequences == step.ledger.contexts
    stamps = {sample.step: sample.stamps["reference"].teacher for sample in client.runs.samples(run.id)}
    assert stamps == {step: "other" if step >= first else "tiny" for step in range(1, STEPS + 1)}
