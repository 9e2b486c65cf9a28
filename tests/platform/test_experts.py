"""A routed run by processes: two specialists behind HTTP, each asked about its own domain and about no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from preceptor.client import Client
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunCreate, RunState
from tests.platform.stack import MODEL, OVERRIDES, TRAINING, Stack, answers, free_port

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


def routed(stack: Stack, client: Client, name: str) -> Run:
    stack.worker()
    router = {"kind": "column", "domains": list(DOMAINS)}
    wish = RunCreate(
        name=name,
        recipe="gkd",
        overrides={**OVERRIDES, "contexts": {"teacher": {"router": router}}},
        student=client.artifacts.push(MODEL, "model", "tiny"),
        teachers={domain: domain for domain in DOMAINS},
        data=TaskSource(task="letters_and_codes"),
        training={**TRAINING, "steps": 3, "batch": 8, "samples_kept": 8},
    )
    run = client.runs.start(wish)
    list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    return run


@pytest.mark.usefixtures("experts")
def test_each_specialist_scores_its_own_domain_and_the_ledger_adds_up(stack: Stack, client: Client) -> None:
    run = routed(stack, client, "routed")
    for step in client.runs.metrics(run.id):
        ledger = step.ledger
        assert ledger.unrouted == 0 and ledger.scored_sequences == ledger.stamped_sequences == ledger.rollouts == 8
        assert sum(ledger.teachers[domain].sequences for domain in DOMAINS) == 8
        assert all(ledger.teachers[domain].requests for domain in DOMAINS)
    for sample in client.runs.samples(run.id):
        assert sample.stamps["teacher"].teacher == ("codes" if "code" in sample.prompt else "letters")
