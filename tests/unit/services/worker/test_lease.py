"""A lease beats, retries what may pass, and once lost says nothing more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preceptor.client import Client
from preceptor.errors import Conflict, LeaseLost, PreceptorError, Unreachable
from preceptor.wire.runs import LeaseGrant, LeaseStatus, ReplicaAddress
from preceptor_services.worker.lease import Lease

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def status(**said: Any) -> LeaseStatus:
    return LeaseStatus(until=NOW, **said)


class Runs:
    """A control plane that answers heartbeats from a list, then with its last entry for ever."""

    def __init__(self, *answers: LeaseStatus | PreceptorError) -> None:
        self.answers = list(answers)
        self.beats = 0
        self.beaten = threading.Event()

    def heartbeat(self, run_id: str, fence: int) -> LeaseStatus:
        assert (run_id, fence) == ("run-1", 7)
        self.beats += 1
        if len(self.answers) == 1:
            self.beaten.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, PreceptorError):
            raise answer
        return answer


def lease_on(runs: Runs, ttl_seconds: float) -> Lease:
    grant = SimpleNamespace(run=SimpleNamespace(id="run-1"), fence=7, ttl_seconds=ttl_seconds)
    return Lease.on_run(cast(Client, SimpleNamespace(runs=runs)), cast(LeaseGrant, grant))


def test_it_beats_while_it_is_open_and_hears_of_a_cancel() -> None:
    runs = Runs(status(), status(cancel=True))
    with lease_on(runs, 0.02) as lease:
        assert runs.beaten.wait(5)
    assert lease.cancel and not lease.lost.is_set()
    assert runs.beats >= 2


def test_a_cancel_is_not_forgotten() -> None:
    lease = lease_on(Runs(status()), 10)
    lease.heard(status(cancel=True, pause=True))
    lease.heard(status())
    assert lease.cancel and not lease.pause


@pytest.mark.parametrize("error", [Conflict("Another worker has it."), LeaseLost("It has ended.")])
def test_a_refused_heartbeat_loses_it(error: PreceptorError) -> None:
    with lease_on(Runs(error), 0.02) as lease:
        assert lease.lost.wait(5)
        with pytest.raises(LeaseLost):
            lease.check()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many heartbeats in the time of a lease, which then does not end on a busy machine."""
    monkeypatch.setattr("preceptor_services.worker.lease.BEATS_PER_TTL", 3000)


def test_a_heartbeat_that_did_not_get_through_is_no_loss(often: None) -> None:
    runs = Runs(Unreachable("Nobody."), status())
    with lease_on(runs, 30) as lease:
        assert runs.beaten.wait(10) and not lease.lost.is_set()


def test_silence_loses_it() -> None:
    with lease_on(Runs(Unreachable("Nobody.")), 0.05) as lease:
        assert lease.lost.wait(5)


def test_an_error_that_nobody_foresaw_ends_no_heartbeats(
    often: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs, heard = Runs(status(), status(cancel=True)), list[LeaseStatus]()
    lease = lease_on(runs, 30)
    listen = lease.heard

    def hear(status: LeaseStatus) -> None:
        heard.append(status)
        if len(heard) == 1:
            raise RuntimeError("no such field")
        listen(status)

    monkeypatch.setattr(lease, "heard", hear)
    with lease:
        assert runs.beaten.wait(5)
    assert lease.cancel and not lease.lost.is_set()
    assert "no such field" in caplog.text and "Traceback" in caplog.text


def failing(times: int, error: PreceptorError) -> Callable[[], str]:
    left = [error] * times

    def send() -> str:
        if left:
            raise left.pop()
        return "done"

    return send


def test_a_report_is_tried_again_while_the_failure_may_pass() -> None:
    lease = lease_on(Runs(status()), 10)
    assert lease.report(failing(1, Unreachable("Restarting."))) == "done"


def test_a_report_that_is_refused_is_not_tried_again() -> None:
    lease = lease_on(Runs(status()), 10)
    with pytest.raises(Conflict):
        lease.report(failing(1, Conflict("No.")))
    assert not lease.lost.is_set()


def test_a_stale_report_loses_the_lease_and_nothing_is_sent_after_it() -> None:
    lease = lease_on(Runs(status()), 10)
    with pytest.raises(LeaseLost):
        lease.report(failing(1, LeaseLost("Fence 8 has it.")))

    def send() -> Any:
        raise AssertionError("a lost lease reports nothing")

    with pytest.raises(LeaseLost):
        lease.report(send)


HERE, THERE = ReplicaAddress(url="http://here"), ReplicaAddress(url="http://there", key_env="THERE_KEY")


def test_whoever_follows_is_told_of_endpoints_when_they_change_and_only_then() -> None:
    lease, seen, told = lease_on(Runs(status()), 10), list[Any](), list[Any]()

    def update(endpoints: Any) -> int:
        seen.append(endpoints)
        return len(seen)

    lease.heard(status(teachers={"self": (HERE,)}))
    lease.follow(update, told.append)
    assert seen == [{"self": (HERE,)}], "what was heard before it followed"
    for _ in range(3):
        lease.heard(status(teachers={"self": (HERE,)}))
        lease.heard(status())
    assert len(seen) == 1
    lease.heard(status(teachers={"self": (HERE, THERE)}))
    assert seen[1:] == [{"self": (HERE, THERE)}] and told == [1, 2]
    lease.unfollow()
    lease.heard(status(teachers={"self": (THERE,)}))
    assert len(seen) == 2


def test_to_tell_may_take_long_without_holding_up_the_heart() -> None:
    lease, telling, go_on = lease_on(Runs(status()), 10), threading.Event(), threading.Event()

    def tell(_: None) -> None:
        telling.set()
        assert go_on.wait(10)

    lease.follow(lambda endpoints: None, tell)
    slow = threading.Thread(target=lease.heard, args=(status(teachers={"self": (HERE,)}),))
    slow.start()
    assert telling.wait(10)
    lease.heard(status(pause=True, teachers={"self": (HERE,)}))
    assert lease.pause
    go_on.set()
    slow.join()
