"""What is said of a queued run, and of a pair that lacks a worker."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from preceptor.cli import codistill, output, runs
from preceptor.cli.main import create_app
from preceptor.wire.waiting import Busy
from tests.contract.conftest import ADMIN, House
from tests.contract.test_codistillations import leased, wish


def test_a_pair_with_one_worker_says_what_its_other_side_waits_for(house: House) -> None:
    pair = house.admin.codistillations.start(wish(house))
    for side, ahead in ((pair.a, 0), (pair.b, 1)):
        assert side.waits is not None and (side.waits.sent, side.waits.devices, side.waits.busy) == (True, 1, ())
        assert side.waits.ahead == ahead and "No worker has a run now: is one started" in side.waits.detail
    leased(house, pair.a.run)
    pair = house.admin.codistillations.get(pair.id)
    assert pair.a.waits is None and pair.b.waits is not None
    assert pair.b.waits.busy == (Busy(worker="worker", run=pair.a.run),) and pair.b.waits.ahead == 0
    assert "Busy: worker (the other side). A side of a pair keeps its worker to the end" in pair.b.waits.detail
    assert house.admin.runs.get(pair.b.run).waits == pair.b.waits
    leased(house, pair.b.run)
    assert house.admin.codistillations.get(pair.id).b.waits is None


def test_a_run_waits_behind_others_or_for_a_broker_or_for_a_larger_worker(sqlite_house: House) -> None:
    first, second = sqlite_house.run(), sqlite_house.run(training={"steps": 4, "batch": 4, "devices": 2})
    sqlite_house.admin.runs.lease(first.id, "gpu-1")
    third = sqlite_house.run()
    assert third.waits is not None and third.waits.ahead == 1
    assert f"Busy: gpu-1 ({first.id}). 1 queued before it is still to be taken. Start another" in third.waits.detail
    waits = sqlite_house.admin.runs.get(second.id).waits
    assert waits is not None and waits.devices == 2 and "a free worker with 2 devices" in waits.detail
    sqlite_house.queue.down = True
    fourth = sqlite_house.run()
    waits = sqlite_house.admin.runs.get(fourth.id).waits
    assert waits is not None and not waits.sent and "the broker has not taken the message" in waits.detail
    sqlite_house.admin.runs.cancel(fourth.id)
    ended = sqlite_house.admin.runs.get(fourth.id)
    assert ended.waits is None
    sqlite_house.clock.pass_seconds(60)
    sqlite_house.queue.down = False
    again = sqlite_house.admin.runs.resume(fourth.id).waits
    assert again is not None and (again.since - fourth.created_at).total_seconds() > 59, "since it was queued last"


def test_the_command_line_says_it_too(sqlite_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house = sqlite_house
    for cli in (codistill, runs):
        monkeypatch.setattr(cli, "connect", lambda url, key_file: house.client(ADMIN))
    monkeypatch.setattr(codistill, "load_pair", lambda file, client: wish(house))
    monkeypatch.setattr(output.console, "width", 220)

    def say(*arguments: str) -> str:
        done = CliRunner().invoke(create_app(), arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done.output

    started = say("codistill", "start", "pair.toml")
    assert started.count("waits for a free worker") == 2 and "No worker has a run now" in started
    (pair,) = house.admin.codistillations.list()
    leased(house, pair.a.run)
    shown = say("codistill", "show", pair.id)
    assert "b: It waits for a free worker. Busy: worker (the other side)." in shown and "a: It" not in shown
    assert "Busy: worker (the other side)" in say("runs", "show", pair.b.run)

    def stop(seconds: float) -> None:
        house.admin.codistillations.stop(pair.id)
        house.admin.runs.release(pair.a.run, 1)

    monkeypatch.setattr("time.sleep", stop)
    watched = say("codistill", "watch", pair.id)
    assert watched.count("waits for a free worker") == 1 and "cancelled" in watched
