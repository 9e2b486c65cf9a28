"""What the profile `codistill` leaves behind: a pair that has run on two trainers which share no disk."""

from __future__ import annotations

import pytest

from preceptor.client import Client
from preceptor.wire.codistillations import CodistillationState
from tests.compose.test_stack import compose, containers, secret, url

pytestmark = pytest.mark.compose

__all__ = ["url"]


def test_the_trainers_share_nothing_that_can_be_written() -> None:
    found = containers()
    mounts = [
        {(mount["Name"], mount["Destination"]) for mount in found[service]["Mounts"] if mount["RW"]}
        for service in ("trainer-a", "trainer-b")
    ]
    assert all(mounts) and not mounts[0] & mounts[1]
    for service, other in (("trainer-a", "trainer-b"), ("trainer-b", "trainer-a")):
        compose("exec", "-T", service, "touch", f"/cache/of-{service}")
        assert f"of-{service}" not in compose("exec", "-T", other, "ls", "/cache")


def test_the_pair_has_run_between_two_hosts(url: str) -> None:
    with Client(url, secret("api", "admin/key")) as client:
        pair, *_ = client.codistillations.list()
        record = client.codistillations.record(pair.id)
    assert pair.state is CodistillationState.SUCCEEDED
    assert pair.a.worker != pair.b.worker
    hosts = {str(side.url).removeprefix("http://").rpartition(":")[0] for side in (pair.a, pair.b)}
    assert len(hosts) == 2 and not hosts & {"127.0.0.1", "0.0.0.0", "localhost"}
    for side in (record.a, record.b):
        assert not side.unpublished and not side.alone
        assert sum(each.count for each in side.heard) > 0
    assert all(side.published > side.steps for side in (pair.a, pair.b)), "every step's weights, and the first"
