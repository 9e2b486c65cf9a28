"""A pair on two hosts that share nothing but the control plane: over a slow link, through cuts, and with a side killed.

CUT_SECONDS=30 in the environment makes every cut as long as that; the suite's own are shorter, and so are its leases.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from preceptor.client import Client
from preceptor.wire.codistillations import PEER, Codistillation, CodistillationState
from preceptor.wire.pairs import PairPolicy, Publication
from preceptor.wire.runs import Run
from tests.platform.apart import Apart, running_apart
from tests.platform.stack import steps_of, until
from tests.platform.test_codistillation import STEPS, pair
from tests.platform.test_two_hosts import CUT_SECONDS, LEASE_SECONDS, cut

pytestmark = pytest.mark.slow

PATIENT = PairPolicy(max_lag=1, patience=600)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """A worker on a, and one on b."""
    with running_apart(tmp_path_factory.mktemp("pair"), "a", "b", lease_seconds=LEASE_SECONDS) as stack:
        for host in ("a", "b"):
            start_worker(stack, f"worker-{host}")
        yield stack


@pytest.fixture
def client(apart: Apart) -> Iterator[Client]:
    apart.hosts.slow()
    with apart.client() as opened:
        yield opened


def start_worker(stack: Apart, name: str) -> None:
    stack.start_worker(name, PEER_HOST=stack.host_of(name).address)


def sides(client: Client, started: Codistillation) -> dict[str, Run]:
    """The runs by the host that trains them now."""
    runs = [client.runs.get(each) for each in (started.a.run, started.b.run)]
    return {str(run.worker).rpartition("-")[2]: run for run in runs}


def after_step(client: Client, run: str, step: int) -> None:
    until(client.runs.events(run), lambda event: event.kind == "step" and event.data["step"] == step)


def finished(client: Client, started: Codistillation) -> Codistillation:
    """The pair, once both sides have done all their steps, each once, and their ledgers agree."""
    published = dict[str, dict[int, Publication]]()
    for run in (started.a.run, started.b.run):
        assert steps_of(list(client.runs.events(run))) == list(range(1, STEPS + 1)), client.runs.get(run).error
        given = client.codistillations.published(run).publications
        published[run] = {each.version: each for each in given}
        assert len(published[run]) == len(given), "no version is given out twice"
    for run, peer in ((started.a.run, started.b.run), (started.b.run, started.a.run)):
        for step in client.runs.metrics(run):
            ledger = step.ledger.teachers[PEER]
            versions = {each.version for each in ledger.answers}
            assert versions <= published[peer].keys(), "every score's version was published"
            assert all(each.lag <= started.policy.max_lag for each in ledger.answers), "also where a side was killed"
            scored = sum(each.count for each in ledger.answers if each.kind == "score")
            assert scored == ledger.sequences, "no score is counted twice"
            assert len({(each.kind, each.version) for each in ledger.answers}) == len(ledger.answers)
    done, record = client.codistillations.get(started.id), client.codistillations.record(started.id)
    assert done.state is CodistillationState.SUCCEEDED
    assert not record.a.unpublished and not record.b.unpublished
    assert all(sum(each.count for each in side.heard) > 0 for side in (record.a, record.b)), "both were heard"
    return done


def test_a_pair_on_two_hosts_finishes_over_a_slow_link(apart: Apart, client: Client) -> None:
    before = apart.hosts.traffic()
    done = finished(client, pair(client, "slow", policy=PATIENT))
    assert {done.a.worker, done.b.worker} == {"worker-a", "worker-b"}
    assert all(size > before[ends] for ends, size in apart.hosts.traffic().items())
    for host, other in (("a", "b"), ("b", "a")):
        assert apart.hosts[host].run("ls", str(apart.disk / f"cache-worker-{host}")).returncode == 0
        assert apart.hosts[host].run("ls", str(apart.disk / f"cache-worker-{other}")).returncode != 0


def test_a_cut_between_the_hosts_and_a_killed_side_cost_time_alone(apart: Apart, client: Client) -> None:
    started = pair(client, "cut-and-killed", policy=PATIENT)
    after_step(client, started.a.run, 1)
    cut(apart, "a", "b")
    after_step(client, started.a.run, 2)
    (dying,) = (child for child in apart.workers if child.name == "worker-b")
    lost = sides(client, started)["b"]
    dying.kill()
    start_worker(apart, "worker-again-b")
    finished(client, started)
    assert client.runs.get(lost.id).worker == "worker-again-b" and client.runs.get(lost.id).attempt > 1
    record = client.codistillations.record(started.id)
    assert not record.a.alone and not record.b.alone, "each waited for the other"


def test_who_is_cut_off_from_everything_is_done_without_and_taken_up_again(apart: Apart, client: Client) -> None:
    started = pair(client, "cut-off", policy=PairPolicy(max_lag=1, patience=CUT_SECONDS / 2, on_loss="alone"))
    after_step(client, started.a.run, 1)
    after_step(client, started.b.run, 1)
    lost = sides(client, started)["b"]
    cut(apart, "b")
    finished(client, started)
    assert client.runs.get(lost.id).attempt > 1, "its lease ended meanwhile"
