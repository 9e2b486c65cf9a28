"""A routed run by processes: two specialists behind HTTP, each asked about its own domain and about no other;
and one of them lost, on two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunCreate, RunState
from tests.platform.stack import MODEL, OVERRIDES, TRAINING, Stack, answers, free_port, until

DOMAINS = ("letters", "codes")


@pytest.fixture(scope="module")
def experts(stack: Stack) -> Iterator[None]:
    """Teachers that are registered under their domains' names."""
    urls = {domain: f"http://127.0.0.1:{free_port()}" for domain in DOMAINS}
    children = {domain: stack.start_teacher(url, domain, log=f"expert-{domain}") for domain, url in urls.items()}
    with stack.client() as client:
        for domain, child in children.items():
            child.wait_until("ready", lambda domain=domain: answers(f"{urls[domain]}/readyz"))
            stack.register_teacher(client, domain, urls[domain])
    yield
    for child in children.values():
        child.kill()


def started(client: Client, name: str, teachers: dict[str, str], context: dict[str, Any], **training: Any) -> Run:
    router = {"kind": "column", "domains": list(DOMAINS)}
    wish = RunCreate(
        name=name,
        recipe="gkd",
        overrides={**OVERRIDES, "contexts": {"teacher": {"router": router, **context}}},
        student=client.artifacts.push(MODEL, "model", "tiny"),
        teachers=teachers,
        data=TaskSource(task="letters_and_codes"),
        training={**TRAINING, "batch": 8, "samples_kept": 8, **training},
    )
    return client.runs.start(wish)


def succeeded(client: Client, run: Run) -> Run:
    list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    return run


@pytest.mark.usefixtures("experts")
def test_each_specialist_scores_its_own_domain_and_the_ledger_adds_up(stack: Stack, client: Client) -> None:
    stack.worker()
    run = succeeded(client, started(client, "routed", {domain: domain for domain in DOMAINS}, {}, steps=3))
    for step in client.runs.metrics(run.id):
        ledger = step.ledger
        assert ledger.unrouted == 0 and ledger.scored_sequences == ledger.stamped_sequences == ledger.rollouts == 8
        assert sum(ledger.teachers[domain].sequences for domain in DOMAINS) == 8
        assert all(ledger.teachers[domain].requests for domain in DOMAINS)
    for sample in client.runs.samples(run.id):
        assert sample.stamps["teacher"].teacher == ("codes" if "code" in sample.prompt else "letters")


@pytest.mark.usefixtures("experts")
def test_on_two_ranks_a_specialist_that_is_gone_is_done_without(stack: Stack, client: Client) -> None:
    """Both ranks drop what only it could say, and count that; what the other says goes on."""
    for child in stack.workers:
        if child.popen.poll() is None:
            child.stop()
    worker = stack.start_worker("routes-on-two", DEVICES="2", TEACHER_DEADLINE="2")
    gone = stack.start_teacher(url := f"http://127.0.0.1:{free_port()}", "fading", log="expert-fading")
    gone.wait_until("ready", lambda: answers(f"{url}/readyz"))
    stack.register_teacher(client, "fading", url)
    told = {"letters": "letters", "codes": "fading"}
    once: dict[str, Any] = {"steps": 8, "evaluate_every": 8, "checkpoint_every": 8}
    run = started(client, "specialist-gone", told, {"on_failure": "drop"}, devices=2, **once)
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 2)
    gone.kill()
    succeeded(client, run)
    dropped = list[int]()
    for step in client.runs.metrics(run.id):
        ledger = step.ledger
        dropped.append(ledger.teachers["codes"].dropped)
        assert not ledger.teachers["letters"].dropped and ledger.teachers["letters"].sequences > 0
        assert ledger.unrouted == 0 and ledger.contexts == ledger.rollouts == 8
        assert ledger.scored_sequences + dropped[-1] == ledger.contexts, "scored or counted, never neither"
        assert isfinite(step.metrics["loss"])
    assert len(dropped) == 8 and dropped[0] == 0
    codes = [step.ledger.teachers["codes"].sequences for step in client.runs.metrics(run.id)]
    assert codes[0] > 0 and dropped[-1] > 1 and codes[-1] == 0
    assert worker.stop() == 0
