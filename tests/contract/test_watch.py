"""Teachers are watched while runs use them: who goes down, who is back, who is another now; and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preceptor.errors import NotAuthorised
from preceptor.wire.runs import LeaseGrant
from preceptor.wire.teachers import Card, TeacherCreate, TeacherKind, TeacherState
from preceptor_services.api.teachers.watch import LOOKS_AT_ONCE, Watcher, watch
from tests.contract.conftest import House
from tests.contract.doubles import card_for
from tests.contract.test_endpoints import HERE, at, grow, in_use, notes, take, taught


def rounds(house: House, count: int = 1) -> None:
    for _ in range(count):
        watch(house.plane)


def states(house: House) -> list[str]:
    return [each.state.value for each in house.admin.teachers.get("spelling").endpoints]


def two(house: House) -> LeaseGrant:
    """A run with a teacher that has two endpoints."""
    taught(house)
    grow(house)
    return take(house)


def test_a_teacher_that_no_run_uses_is_left_alone(house: House):
    taught(house)
    rounds(house)
    assert house.faculty.watched == []
    run = house.run()
    rounds(house)
    assert house.faculty.watched == [HERE], "a queued run will use it"
    house.admin.runs.cancel(run.id)
    rounds(house)
    assert house.faculty.watched == [HERE]


def test_a_teacher_that_went_down_is_known_to_be_back_although_no_run_uses_it(house: House):
    taught(house)
    run = house.run()
    card = house.faculty.cards.pop(HERE)
    rounds(house, 2)
    house.admin.runs.cancel(run.id)
    assert states(house) == ["down"]
    house.faculty.cards[HERE] = card
    rounds(house)
    assert states(house) == ["ready"]
    house.faculty.watched.clear()
    rounds(house)
    assert house.faculty.watched == []


def test_an_endpoint_that_goes_down_leaves_and_comes_back(house: House):
    lease = two(house)
    card = house.faculty.cards.pop(HERE)
    rounds(house)
    assert states(house) == ["ready", "ready"], "once may be a hiccup"
    assert in_use(house, lease) == [HERE, at(2)]
    rounds(house)
    assert states(house) == ["down", "ready"]
    assert in_use(house, lease) == [at(2)]
    assert house.admin.teachers.get("spelling").state is TeacherState.READY
    rounds(house, 3)
    house.faculty.cards[HERE] = card
    rounds(house)
    assert states(house) == ["ready", "ready"]
    assert in_use(house, lease) == [HERE, at(2)]
    told = notes(house, lease.run.id)
    assert len(told) == 2, "once each"
    assert told[0].startswith(f"Teacher spelling: the endpoint {HERE} is down: No answer from {HERE}")
    assert told[1] == f"Teacher spelling: the endpoint {HERE} is ready again."


def test_an_answer_between_two_misses_counts(house: House):
    two(house)
    card = house.faculty.cards.pop(HERE)
    for _ in range(3):
        rounds(house)
        house.faculty.cards[HERE] = card
        rounds(house)
        del house.faculty.cards[HERE]
    assert states(house) == ["ready", "ready"]


def test_where_all_are_down_the_teacher_is_and_the_run_goes_on_trying(house: House):
    lease = two(house)
    house.faculty.cards.clear()
    rounds(house, 2)
    assert house.admin.teachers.get("spelling").state is TeacherState.DOWN
    assert in_use(house, lease) == [HERE, at(2)]
    assert house.admin.runs.get(lease.run.id).state.value == "running"


def test_an_endpoint_that_is_another_now_is_degraded_until_it_is_itself_again(house: House):
    lease = two(house)
    known = house.faculty.cards[HERE]
    house.faculty.cards[HERE] = known.model_copy(update={"weights_version": 5})
    rounds(house)
    assert states(house) == ["degraded", "ready"]
    assert in_use(house, lease) == [at(2)]
    assert "is not what it was" in notes(house, lease.run.id)[0]
    assert "its weights version is 5, the teacher's 0" in notes(house, lease.run.id)[0]
    house.faculty.cards[HERE] = known
    rounds(house)
    assert states(house) == ["ready", "ready"]


def test_a_teacher_that_moves_may_move(house: House):
    taught(house)
    house.faculty.cards[HERE] = card_for(house.tmp / "tiny", "spelling", moves=True)
    house.admin.teachers.probe("spelling")
    take(house)
    house.faculty.cards[HERE] = card_for(house.tmp / "tiny", "spelling", moves=True, weights_version=7)
    rounds(house)
    assert states(house) == ["ready"]


def test_what_a_probe_found_wrong_stays_so_until_another_probe(house: House):
    lease = two(house)
    house.faculty.failing.add(HERE)
    house.admin.teachers.probe("spelling")
    rounds(house, 2)
    assert states(house) == ["degraded", "ready"]
    assert in_use(house, lease) == [at(2)]
    card = house.faculty.cards.pop(HERE)
    rounds(house, 2)
    assert states(house) == ["down", "ready"]
    house.faculty.cards[HERE] = card
    rounds(house)
    assert states(house) == ["degraded", "ready"], "back, and no better"
    house.faculty.failing.clear()
    house.admin.teachers.probe("spelling")
    assert states(house) == ["ready", "ready"]


def test_what_only_a_probe_found_silent_is_ready_once_it_answers(house: House):
    two(house)
    card = house.faculty.cards.pop(HERE)
    house.admin.teachers.probe("spelling")
    assert states(house) == ["down", "ready"]
    house.faculty.cards[HERE] = card
    rounds(house)
    assert states(house) == ["ready", "ready"]


def test_a_key_that_is_refused_is_known_at_once(house: House, monkeypatch: pytest.MonkeyPatch):
    lease = two(house)

    def locked(url: str, key: str | None, *how: object) -> Card | None:
        if url == HERE:
            raise NotAuthorised("The key is not this teacher's.")
        return house.faculty.cards[url]

    patch_vital(house, monkeypatch, locked)
    rounds(house)
    assert states(house) == ["down", "ready"]
    assert "The key is not this teacher's" in notes(house, lease.run.id)[0]


def test_a_drained_endpoint_is_watched_too(house: House):
    two(house)
    teacher = house.admin.teachers.get("spelling")
    house.admin.teachers.drain_endpoint("spelling", teacher.endpoints[0].id)
    card = house.faculty.cards.pop(HERE)
    rounds(house, 2)
    assert states(house) == ["down", "ready"]
    house.faculty.cards[HERE] = card
    rounds(house)
    assert states(house) == ["draining", "ready"]


def test_a_fallback_is_watched_and_its_runs_are_told(house: House):
    taught(house)
    house.teacher("spare")
    overrides = {"contexts": {"reference": {"on_failure": "fallback"}}}
    run = house.run(teachers={"self": "spelling"}, fallbacks={"self": "spare"}, overrides=overrides)
    del house.faculty.cards["http://127.0.0.1:1/spare"]
    rounds(house, 2)
    assert house.admin.teachers.get("spare").state is TeacherState.DOWN
    assert any("Teacher spare" in each for each in notes(house, run.id))


def test_a_stock_server_is_asked_with_what_it_cannot_say(house: House, monkeypatch: pytest.MonkeyPatch):
    taught(house)
    card = card_for(house.tmp / "tiny", "stock", supports=("sampled", "topk", "full"))
    house.faculty.cards[at(5)] = card
    create = TeacherCreate(name="stock", url=at(5), kind=TeacherKind.VLLM, tokenizer=card.tokenizer)
    house.admin.teachers.add(create)
    house.run(teachers={"self": "stock"})
    seen: list[tuple[object, ...]] = []

    def vital(url: str, key: str | None, *how: object) -> None:
        seen.append(how)

    patch_vital(house, monkeypatch, vital)
    rounds(house)
    ((kind, stock),) = seen
    assert kind is TeacherKind.VLLM
    assert (stock.name, stock.tokenizer) == ("stock", card.tokenizer)  # pyright: ignore[reportAttributeAccessIssue]


def test_looks_hold_no_transaction_and_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch):
    taught(house)
    for number in range(LOOKS_AT_ONCE + 2):
        grow(house, number + 2)
    lease = take(house)
    gate, at_once, most = threading.Semaphore(0), [0], [0]
    lock, full = threading.Lock(), threading.Event()

    def slow(url: str, key: str | None, *how: object) -> Card:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            if at_once[0] == LOOKS_AT_ONCE:
                full.set()
        assert gate.acquire(timeout=30)
        with lock:
            at_once[0] -= 1
        return house.faculty.cards[url]

    patch_vital(house, monkeypatch, slow)
    watching = threading.Thread(target=watch, args=(house.plane,))
    watching.start()
    assert full.wait(30)
    # While they wait for their answers, whoever wants to write can.
    house.admin.teachers.drain("spelling")
    assert house.admin.runs.heartbeat(lease.run.id, lease.fence).teachers
    gate.release(LOOKS_AT_ONCE + 3)
    watching.join(30)
    assert most[0] == LOOKS_AT_ONCE


def test_one_that_left_meanwhile_is_not_brought_back(house: House, monkeypatch: pytest.MonkeyPatch):
    two(house)
    teacher = house.admin.teachers.get("spelling")

    def leaving(url: str, key: str | None, *how: object) -> Card:
        if url == HERE and len(house.admin.teachers.get("spelling").endpoints) == 2:
            house.admin.teachers.remove_endpoint("spelling", teacher.endpoints[0].id)
        return house.faculty.cards[url].model_copy(update={"weights_version": 9})

    patch_vital(house, monkeypatch, leaving)
    rounds(house)
    assert states(house) == ["degraded"]


def test_a_look_that_breaks_is_logged_and_the_others_count(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    two(house)

    def broken(url: str, key: str | None, *how: object) -> Card:
        if url == HERE:
            raise RuntimeError("a bug")
        return house.faculty.cards[url].model_copy(update={"weights_version": 9})

    patch_vital(house, monkeypatch, broken)
    rounds(house)
    assert states(house) == ["ready", "degraded"]
    assert "could not be looked at" in caplog.text


class Heard(list[str]):
    """A list that tells when something comes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def append(self, item: str) -> None:
        super().append(item)
        self.event.set()


def test_the_control_plane_watches_by_itself(tmp_path: Path, make_house: Callable[..., House]):
    house = make_house(f"sqlite:///{tmp_path / 'preceptor.db'}", watch_seconds=0.01)
    house.faculty.watched = heard = Heard()
    house.run()
    assert heard.event.wait(30)


def test_to_stop_it_does_not_wait_for_a_teacher(sqlite_house: House):
    house, asked, answer = sqlite_house, threading.Event(), threading.Event()

    def hanging(url: str, key: str | None, *how: object) -> Card:
        asked.set()
        assert answer.wait(60)
        return house.faculty.cards[url]

    house.run()
    often = house.settings.model_copy(update={"watch_seconds": 0.01})
    watcher = Watcher(replace(house.plane, vital=hanging, settings=often))
    watcher.start()
    assert asked.wait(30)
    watcher.stop()
    assert not answer.is_set(), "it is still being waited for, by a thread that holds up nobody"
    answer.set()


def patch_vital(house: House, monkeypatch: pytest.MonkeyPatch, vital: Any) -> None:
    """Another way to ask for signs of life, from now on."""
    monkeypatch.setattr(house.app.state, "plane", replace(house.plane, vital=vital))
