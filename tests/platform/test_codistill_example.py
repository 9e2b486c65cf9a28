"""The place of the codistill example: three hosts that share no disk, and a link between two that it cuts."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from examples.codistill.places import place
from examples.common.hosts import why_impossible
from preceptor.wire.codistillations import CodistillationState
from preceptor.wire.pairs import PairPolicy
from tests.platform.stack import MODEL
from tests.platform.test_codistillation import pair

pytestmark = pytest.mark.slow

CUT_SECONDS = 2.0


def test_a_pair_ends_there_as_it_should_and_what_passed_is_counted() -> None:
    if reason := why_impossible():
        pytest.skip(f"no hosts of their own: {reason}")
    console = Console(file=io.StringIO(), width=200)
    with place(MODEL, console, 2, "fast", CUT_SECONDS) as where:
        started = pair(where.client, "of-the-example", policy=PairPolicy(max_lag=1, patience=60))
        with where.disturbed(started.a.run, 1):
            for run in (started.a.run, started.b.run):
                list(where.client.runs.events(run))
        done = where.client.codistillations.get(started.id)
        assert done.state is CodistillationState.SUCCEEDED
        told = where.told(done)
    assert told["hosts"] == 2 and told["shared_disks"] == []
    assert sorted(told["sides"].values()) == ["host-a", "host-b"]
    (cut,) = told["cuts_seconds"]
    assert cut >= CUT_SECONDS
    size = sum(each.stat().st_size for each in MODEL.iterdir())
    assert told["bytes"].keys() == {"control-a", "control-b", "a-b"} and told["bytes"]["a-b"] > 0
    assert min(told["bytes"]["control-a"], told["bytes"]["control-b"]) > size, "each fetched the student for itself"
