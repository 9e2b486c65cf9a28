"""A run that waits for a teacher that is away can be cancelled, and given back: waiting holds nobody up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from preceptor.client import Client
from preceptor.wire.runs import Event, Run, RunState
from tests.platform.stack import Child, Stack, answers, free_port, steps_of, until

STEPS = 40


@dataclass
class Away:
    """A run whose only teacher was killed at its third step."""

    run: Run
    teacher: Child
    url: str
    events: Iterator[Event]
    seen: list[Event]


def serve(stack: Stack, name: str, url: str) -> Child:
    child = stack.start_teacher(url, name, log=f"teacher-{name}")
    child.wait_until("ready", lambda: answers(f"{url}/readyz"))
    return child


def waiting(stack: Stack, client: Client, name: str) -> Away:
    url = f"http://127.0.0.1:{free_port()}"
    teacher = serve(stack, name, url)
    stack.register_teacher(client, name, url)
    run = stack.start_run(client, f"waits-for-{name}", teacher=name, steps=STEPS, evaluate_every=STEPS)
    events = client.runs.events(run.id)
    seen = until(events, lambda event: event.kind == "step" and event.data["step"] == 3)
    teacher.kill()
    seen += until(events, lambda event: event.data.get("endpoint") == url and event.data.get("state") == "down")
    assert client.runs.get(run.id).state is RunState.RUNNING
    return Away(run, teacher, url, events, seen)


def test_a_run_that_waits_is_cancelled_within_moments(stack: Stack, client: Client) -> None:
    stack.only_worker()
    away = waiting(stack, client, "gone-for-good")
    client.runs.cancel(away.run.id)
    list(away.events)  # ends with the run, long before the wait would
    run = client.runs.get(away.run.id)
    assert run.state is RunState.CANCELLED and run.error is None and run.step >= 3


def test_a_worker_that_is_told_to_stop_while_it_waits_gives_its_run_back(stack: Stack, client: Client) -> None:
    worker = stack.only_worker()
    away = waiting(stack, client, "gone-a-while")
    assert worker.stop() == 0
    assert client.runs.get(away.run.id).state is RunState.QUEUED

    teacher = serve(stack, "gone-a-while", away.url)
    stack.worker()
    seen = away.seen + list(away.events)
    run = client.runs.get(away.run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert steps_of(seen) == list(range(1, STEPS + 1)), "every step is recorded exactly once"
    teacher.stop()
