"""A teacher of a run that goes on is replaced, by processes: refused, followed between two steps, told by its step;
and where it was killed, in the step that waits for it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.runs import Event, Run, RunState
from tests.platform.stack import Child, Stack, answers, free_port, preceptor, steps_of, until

STEPS, FEW = 40, 12


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
    assert f"Role self: from step {first} on other is asked" in _notes(told)

    for step in client.runs.metrics(run.id):
        ledger, now = step.ledger.teachers["self"], "other" if step.step >= first else "tiny"
        assert ledger.endpoints.keys() == {other if now == "other" else stack.teacher_url}, "no step is asked of both"
        came = (ledger.teachers_left, ledger.teachers_joined, ledger.left, ledger.joined)
        changed = (["tiny"], ["other"], [stack.teacher_url], [other])
        assert came == (changed if step.step == first else ([], [], [], [])), step.step
        assert step.ledger.scored_sequences == step.ledger.contexts
    stamps = {sample.step: sample.stamps["reference"].teacher for sample in client.runs.samples(run.id)}
    assert stamps == {step: "other" if step >= first else "tiny" for step in range(1, STEPS + 1)}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_that_waits_for_a_teacher_that_was_killed_goes_on_with_another(
    stack: Stack, client: Client, other: str, devices: int
) -> None:
    name, url = f"killed-{devices}", f"http://127.0.0.1:{free_port()}"
    killed = stack.start_teacher(url, name, log=f"teacher-{name}")
    killed.wait_until("ready", lambda: answers(f"{url}/readyz"))
    stack.register_teacher(client, name, url)
    plan: dict[str, Any] = {"steps": FEW, "samples_kept": 1, "evaluate_every": FEW, "checkpoint_every": FEW}
    run = stack.start_run(client, f"waits-{devices}", teacher=name, devices=devices, max_lag=devices - 1, **plan)
    events = client.runs.events(run.id)
    told = until(events, lambda event: event.kind == "step" and event.data["step"] == 3)
    killed.kill()
    told += until(events, lambda event: event.data.get("endpoint") == url and event.data.get("state") == "down")
    waits = client.runs.get(run.id)
    assert waits.state is RunState.RUNNING and waits.step < FEW
    command(stack, run.id, "--set", "self=other")
    told += list(events)

    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED and run.attempt == 1, run.error
    (refill,) = run.refilled
    first = waits.step + 1
    assert (refill.left, refill.joined, refill.step) == (name, "other", first), "in the very step that waited"
    assert f"Role self: all of step {first} is asked anew, of other in place of {name}" in _notes(told)
    assert steps_of(told) == list(range(1, FEW + 1)), "every step is recorded once"
    for step in client.runs.metrics(run.id):
        ledger = step.ledger.teachers["self"]
        assert step.ledger.rollouts == step.ledger.contexts == step.ledger.scored_sequences == ledger.sequences
        came = (ledger.teachers_left, ledger.teachers_joined)
        assert came == (([name], ["other"]) if step.step == first else ([], [])), step.step
        if step.step != first:
            assert ledger.endpoints.keys() == {other if step.step > first else url}
        else:
            assert ledger.endpoints[other] >= 1 and ledger.waited_seconds > 0 and ledger.retries >= 1
    stamps = {sample.step: sample.stamps["reference"].teacher for sample in client.runs.samples(run.id)}
    assert stamps == {step: "other" if step >= first else name for step in range(1, FEW + 1)}


def _notes(events: Sequence[Event]) -> list[str]:
    return [event.data["message"] for event in events if event.kind == "note"]
