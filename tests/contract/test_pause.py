"""A run is paused by its worker, waits without one, and goes on from its checkpoint."""

from __future__ import annotations

import pytest

from preceptor.errors import Conflict
from preceptor.wire.common import Scope
from preceptor.wire.runs import Finish, LeaseGrant, RunState
from preceptor_services.api.sweeper import end_leases, send_again
from tests.contract.conftest import House
from tests.contract.reports import steps


def paused(house: House) -> LeaseGrant:
    """A run that a worker has paused."""
    lease = house.admin.runs.lease(house.run().id, "w")
    house.admin.runs.pause(lease.run.id)
    house.admin.runs.release(lease.run.id, lease.fence)
    return lease


def states(house: House, run_id: str) -> list[tuple[str, str]]:
    events = house.admin.runs.events(run_id, follow=False)
    return [(event.data["from"], event.data["to"]) for event in events if event.kind == "state"]


def test_the_worker_is_told_and_gives_the_run_back(house: House):
    lease = house.admin.runs.lease(house.run().id, "w")
    run_id, sent = lease.run.id, list(house.queue.sent)
    assert not house.admin.runs.heartbeat(run_id, lease.fence).pause
    asked = house.admin.runs.pause(run_id)
    assert (asked.state, asked.pause_requested) == (RunState.RUNNING, True)
    assert house.admin.runs.pause(run_id) == asked, "again changes nothing"
    assert house.admin.runs.report(run_id, steps(lease.fence, 1)).pause
    house.admin.runs.release(run_id, lease.fence)
    house.admin.runs.release(run_id, lease.fence)  # asked again since the answer was lost
    held = house.admin.runs.get(run_id)
    assert (held.state, held.pause_requested, held.finished_at) == (RunState.PAUSED, False, None)
    assert house.admin.runs.pause(run_id) == held
    assert house.queue.sent == sent, "no worker is sent for it"
    assert states(house, run_id)[-1] == ("running", "paused")


def test_a_paused_run_waits_for_nobody_but_whoever_resumes_it(house: House):
    lease = paused(house)
    house.clock.pass_seconds(10 * house.settings.requeue_seconds)
    end_leases(house.plane)
    send_again(house.plane)
    assert house.queue.sent == [lease.run.id]
    with pytest.raises(Conflict, match="is paused; there is nothing to advance"):
        house.admin.runs.lease(lease.run.id, "w")
    resumed = house.admin.runs.resume(lease.run.id)
    assert resumed.state is RunState.QUEUED
    assert house.queue.sent == [lease.run.id, lease.run.id]
    again = house.admin.runs.lease(lease.run.id, "w2")
    assert (again.fence, again.run.attempt) == (lease.fence + 1, 2)
    assert not house.admin.runs.heartbeat(lease.run.id, again.fence).pause
    assert states(house, lease.run.id)[-2:] == [("paused", "queued"), ("queued", "running")]


def test_a_pause_is_taken_back_before_the_worker_heard_of_it(house: House):
    lease = house.admin.runs.lease(house.run().id, "w")
    house.admin.runs.pause(lease.run.id)
    goes_on = house.admin.runs.resume(lease.run.id)
    assert (goes_on.state, goes_on.pause_requested) == (RunState.RUNNING, False)
    assert not house.admin.runs.heartbeat(lease.run.id, lease.fence).pause


def test_a_worker_that_dies_while_it_is_to_pause_leaves_a_paused_run(house: House):
    lease = house.admin.runs.lease(house.run().id, "w")
    house.admin.runs.pause(lease.run.id)
    house.clock.pass_seconds(house.settings.lease_seconds + 1)
    with pytest.raises(Conflict, match="is being paused"):
        house.admin.runs.lease(lease.run.id, "w2")
    end_leases(house.plane)
    assert house.admin.runs.get(lease.run.id).state is RunState.PAUSED


def test_cancelling_goes_before_pausing(house: House):
    lease = house.admin.runs.lease(house.run().id, "w")
    house.admin.runs.pause(lease.run.id)
    house.admin.runs.cancel(lease.run.id)
    with pytest.raises(Conflict, match="is being cancelled"):
        house.admin.runs.pause(lease.run.id)
    status = house.admin.runs.heartbeat(lease.run.id, lease.fence)
    assert status.cancel
    ended = house.admin.runs.finish(lease.run.id, Finish(fence=lease.fence, state=RunState.CANCELLED))
    assert (ended.state, ended.pause_requested) == (RunState.CANCELLED, False)


def test_a_paused_run_is_cancelled_at_once(house: House):
    lease = paused(house)
    assert house.admin.runs.cancel(lease.run.id).state is RunState.CANCELLED


def test_a_paused_run_goes_on_with_a_teacher_that_drains(house: House):
    lease = paused(house)
    house.admin.teachers.drain("spelling")
    assert house.admin.runs.resume(lease.run.id).state is RunState.QUEUED, "it never ceased to need it"


def test_only_a_running_run_is_paused(house: House):
    run = house.run()
    with pytest.raises(Conflict, match="is queued; only a running one can be paused"):
        house.admin.runs.pause(run.id)
    house.admin.runs.cancel(run.id)
    with pytest.raises(Conflict, match="is cancelled; only a running one"):
        house.admin.runs.pause(run.id)


def test_who_only_looks_pauses_nothing(sqlite_house: House):
    lease = sqlite_house.admin.runs.lease(sqlite_house.run().id, "w")
    reader = sqlite_house.http(sqlite_house.admin.keys.create("r", Scope.READ).secret)
    assert reader.post(f"/v1/runs/{lease.run.id}/pause").status_code == 403
