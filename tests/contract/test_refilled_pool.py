"""Another teacher takes over a role of a pool between two steps: what was asked for one step goes to one teacher."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from preceptor.errors import Interrupted, Invalid
from preceptor.pool import TeacherPool
from preceptor.replicas import LONG
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.teachers import Support
from tests.clock import Clock
from tests.contract.replicas import KEY_ENV, Hosts, address
from tests.contract.teaching import KEY, Teaching, asked, table, teaching

NAMES = {"a": "first", "a2": "first", "b": "second", "c": "third"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)


@pytest.fixture(scope="module")
def taught() -> Iterator[dict[str, Teaching]]:
    """Teachers by host."""
    with ExitStack() as stack:
        yield {host: stack.enter_context(teaching(table(), teacher_name=name)) for host, name in NAMES.items()}


def endpoint(taught: dict[str, Teaching], host: str, *further: str, key_env: str = KEY_ENV) -> TeacherEndpoint:
    more = tuple(map(address, further))
    card = taught[host].client.card()
    return TeacherEndpoint(name=NAMES[host], url=f"http://{host}", key_env=key_env, replicas=more, card=card)


@pytest.fixture
def hosts(taught: dict[str, Teaching]) -> Hosts:
    return Hosts({host: each.bridge for host, each in taught.items()})


@pytest.fixture
def pool(taught: dict[str, Teaching], hosts: Hosts, tmp_path: Path) -> Iterator[TeacherPool]:
    clock = Clock()
    teachers = {"maths": endpoint(taught, "a"), "law": endpoint(taught, "c")}
    with TeacherPool(teachers, tmp_path, vacant=("codes",), transport=hosts, clock=clock, sleep=clock.sleep) as opened:
        yield opened


def scorer(pool: TeacherPool, role: str = "maths") -> str:
    return pool.score(role, asked()).stamp.teacher


def test_a_role_is_refilled_with_the_step_and_not_before(
    taught: dict[str, Teaching], pool: TeacherPool, hosts: Hosts
) -> None:
    assert pool.begin(1) == {"codes"}
    assert scorer(pool) == "first"
    assert pool.refill({"maths": endpoint(taught, "b")}, 3) == {}
    for step in (1, 2):
        pool.begin(step)
        assert scorer(pool) == "first"
        before = pool.take_ledger()["maths"]
        assert not before.left and not before.joined
    pool.begin(3)
    hosts.forget()
    assert scorer(pool) == "second" and pool.card("maths").teacher == "second"
    assert {host for host, _ in hosts.requests} == {"b"}
    ledger = pool.take_ledger()
    assert (ledger["maths"].left, ledger["maths"].joined) == (["http://a"], ["http://b"])
    assert ledger["maths"].endpoints == {"http://b": 1}
    assert scorer(pool, "law") == "third" and not ledger["law"].joined, "nobody else has changed"


def test_heads_and_texts_come_from_whoever_fills_the_role(taught: dict[str, Teaching], pool: TeacherPool) -> None:
    hidden = pool.score("maths", asked(support=Support.FULL))
    pool.refill({"maths": endpoint(taught, "b")}, 2)
    pool.begin(2)
    again = pool.score("maths", asked(support=Support.FULL))
    assert (hidden.stamp.teacher, again.stamp.teacher) == ("first", "second")
    assert pool.head("maths", again.stamp.head_hash).hash == again.stamp.head_hash


def test_what_is_with_the_old_one_is_finished_by_it(
    taught: dict[str, Teaching], pool: TeacherPool, hosts: Hosts
) -> None:
    pool.begin(1)

    def watch(host: str, path: str) -> None:
        if path == "/v1/score" and host == "a":
            hosts.watch = lambda host, path: None
            pool.refill({"maths": endpoint(taught, "b")}, 2)
            pool.begin(2)
            assert scorer(pool) == "second"

    hosts.watch = watch
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(scorer, pool).result(timeout=30) == "first"


def test_a_plan_gives_way_to_the_next_and_two_steps_may_have_two(
    taught: dict[str, Teaching], pool: TeacherPool, hosts: Hosts
) -> None:
    pool.refill({"maths": endpoint(taught, "b")}, 2)
    pool.refill({"maths": endpoint(taught, "c")}, 2)
    pool.refill({"maths": endpoint(taught, "b")}, 3)
    pool.begin(1)
    seen = [scorer(pool)]
    for step in (2, 3):
        pool.begin(step)
        seen.append(scorer(pool))
    assert seen == ["first", "third", "second"]
    pool.refill({"maths": endpoint(taught, "c")}, 9)
    pool.begin(9)
    assert scorer(pool) == "third", "steps in between ask nobody else"


def test_endpoints_of_whoever_is_there_or_comes_are_followed_at_once(
    taught: dict[str, Teaching], pool: TeacherPool, hosts: Hosts
) -> None:
    changes = pool.refill({"maths": endpoint(taught, "a", "a2")}, 2)
    assert changes["maths"].joined == ("http://a2",), "the same teacher"
    pool.refill({"maths": endpoint(taught, "b")}, 2)
    pool.update({"maths": (address("a"),), "codes": (ReplicaAddress(url="http://c"),)})
    pool.begin(2)
    hosts.forget()
    assert scorer(pool) == "second" and hosts.scored() == ["b"]


def test_a_role_is_left_empty_and_filled_again(taught: dict[str, Teaching], pool: TeacherPool) -> None:
    pool.refill({"maths": None, "codes": endpoint(taught, "b")}, 2)
    assert pool.begin(1) == {"codes"}
    assert pool.begin(2) == {"maths"}
    assert scorer(pool, "codes") == "second"
    with pytest.raises(Invalid, match="no teacher for the role 'maths'; it has codes, law"):
        scorer(pool)
    ledger = pool.take_ledger()
    assert (ledger["maths"].left, ledger["codes"].joined) == (["http://a"], ["http://b"])
    pool.refill({"maths": endpoint(taught, "c")}, 3)
    assert pool.begin(3) == set() and scorer(pool) == "third"


def test_a_key_that_is_not_set_here_changes_nothing(taught: dict[str, Teaching], pool: TeacherPool) -> None:
    wish = {"law": endpoint(taught, "a"), "maths": endpoint(taught, "b", key_env="NOT_SET")}
    with pytest.raises(Invalid, match="NOT_SET, which is not set here"):
        pool.refill(wish, 2)
    pool.begin(2)
    assert (scorer(pool), scorer(pool, "law")) == ("first", "third")


def test_closing_closes_who_was_to_come(taught: dict[str, Teaching], pool: TeacherPool) -> None:
    pool.refill({"maths": endpoint(taught, "b")}, 2)
    pool.close()
    pool.begin(2)
    with pytest.raises(Interrupted, match="'second' is no longer to be asked"):
        scorer(pool)


def looked_for(true: Callable[[], bool], ends: Future[str]) -> bool:
    """Whether it becomes true before the call ends."""
    while not true():
        if ends.done():
            return False
    return True


@pytest.fixture
def patient(taught: dict[str, Teaching], hosts: Hosts, tmp_path: Path) -> Iterator[TeacherPool]:
    """Pauses as long as it says."""
    teachers = {"maths": endpoint(taught, "a"), "law": endpoint(taught, "c")}
    with TeacherPool(teachers, tmp_path, transport=hosts) as opened:
        yield opened


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "emptied"])
def test_whoever_waits_in_vain_for_a_teacher_that_leaves_is_broken_off(
    taught: dict[str, Teaching], patient: TeacherPool, hosts: Hosts, replaced: bool
) -> None:
    pool, coming = patient, endpoint(taught, "b") if replaced else None
    hosts.away.add("a")
    pool.begin(4)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(scorer, pool)
        assert looked_for(lambda: pool.take_ledger()["maths"].waited_seconds > 0, call)
        assert not pool.hangs, "nobody has another to ask"
        pool.refill({"maths": endpoint(taught, "c")}, 6)
        pool.refill({"maths": coming}, 7)
        assert pool.hangs and pool.begin_again() == {"maths"} and not pool.hangs
        with pytest.raises(Interrupted, match="'first' is no longer to be asked"):
            call.result(timeout=30)
    ledger = pool.take_ledger()["maths"]
    assert (ledger.left, ledger.joined) == (["http://a"], ["http://b"] if replaced else [])
    assert pool.begin(4) == (set() if replaced else {"maths"})
    if replaced:
        assert scorer(pool) == "second" and pool.begin(7) == set() and scorer(pool) == "second"
    assert pool.begin_again() == set() and scorer(pool, "law") == "third"


def test_what_takes_very_long_hangs_and_what_is_slow_does_not(
    taught: dict[str, Teaching], hosts: Hosts, tmp_path: Path
) -> None:
    clock, asked, go = Clock(), Event(), Event()

    def watch(host: str, path: str) -> None:
        if path == "/v1/score":
            asked.set()
            assert go.wait(30)

    hosts.watch = watch
    with (
        TeacherPool({"maths": endpoint(taught, "a")}, tmp_path, transport=hosts, clock=clock) as pool,
        ThreadPoolExecutor(1) as thread,
    ):
        pool.refill({"maths": endpoint(taught, "b")}, 2)
        call = thread.submit(scorer, pool)
        assert asked.wait(30)
        clock.sleep(LONG - 1)
        assert not pool.hangs
        clock.sleep(2)
        assert pool.hangs
        go.set()
        assert call.result(timeout=30) == "first" and not pool.hangs


def test_a_request_that_somebody_took_and_does_not_answer_is_broken_off(
    taught: dict[str, Teaching], tmp_path: Path
) -> None:
    """As by a teacher that was stopped, and not killed: over a real connection."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as thread:
        port = silent.getsockname()[1]
        stopped = endpoint(taught, "a").model_copy(update={"url": f"http://127.0.0.1:{port}"})
        with TeacherPool({"maths": stopped}, tmp_path) as pool:
            call = thread.submit(scorer, pool)
            taken, _ = silent.accept()
            with taken:
                assert taken.recv(3) == b"GET", "its card"
                pool.refill({"maths": endpoint(taught, "b")}, 2)
                assert pool.begin_again() == {"maths"}
                with pytest.raises(Interrupted):
                    call.result(timeout=30)
