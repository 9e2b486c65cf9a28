"""The link with a peer: waiting by lag, going on, being lost and coming back, and versions that nobody published."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from preceptor.errors import Interrupted, Invalid, NeverPublished, PeerLost, TeacherUnavailable
from preceptor.wire.pairs import Outcomes, PairGrant, PairPolicy, Publication, Published, step_of, version_of
from preceptor_services.worker.pair import Link
from preceptor_trainer.standing import Standings
from preceptor_trainer.trained import Trained
from tests.debaters import card

HASH = "sha256:" + "a" * 64
PEER, OWN = "run-peer", "run-own"


@dataclass
class Plane:
    """A control plane that knows what a test says of the peer."""

    state: str = "running"
    url: str | None = "http://peer"
    done: bool = False
    told_done: bool = False
    peer: list[Publication] = field(default_factory=list[Publication])
    own: list[Publication] = field(default_factory=list[Publication])
    told: list[int] = field(default_factory=list[int])
    """Versions that were recorded with it."""

    def serve(self, run: str, serving: object) -> None:
        pass

    @property
    def codistillations(self) -> Plane:
        return self

    def published(self, run: str, *, after: int = 0) -> Published:
        held = self.peer if run == PEER else self.own
        new = tuple(each for each in held if each.version > after)
        done = self.done or self.state == "succeeded"
        return Published(state=self.state, url=self.url, key_env=None, done=done, publications=new)

    def publish(self, run: str, fence: int, publication: Publication, *, done: bool = False) -> None:
        self.told.append(publication.version)
        self.told_done = done

    def publishes(self, step: int, incarnation: int = 1, **outcomes: Outcomes) -> None:
        version = version_of(incarnation, step)
        self.peer.append(Publication(version=version, step=step, weights_hash=HASH, outcomes=outcomes))


class Student:
    """A published student that takes its time over a version, until it is let go on; some do not fit."""

    card = card("pair-a")

    def __init__(self) -> None:
        self.moved, self.go, self.fits = list[int](), threading.Event(), True

    def move(self, weights: object, version: int, announce: Any) -> None:
        assert self.go.wait(10)
        if not self.fits:
            raise Invalid("It holds NaN.", field="weights")
        announce(HASH)
        self.moved.append(version)


class Held:
    """A lease that lets everything through."""

    def report(self, send: Any) -> Any:
        return send()

    def heard(self, status: object) -> None:
        pass


class Clock:
    """Time passes by so much with every look at it."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def link(
    plane: Plane,
    stopping: threading.Event | None = None,
    tick: float = 0.0,
    student: Student | None = None,
    seen: Callable[[str, str | None], int | None] = lambda url, key: None,
    **policy: Any,
) -> Link:
    class Run:
        id = OWN

    class Grant:
        run, fence = Run(), 1

    pair = PairGrant(
        id="pair-1",
        side="a",
        role="peer",
        teacher="pair-a",
        peer_run=PEER,
        teaches=(),
        peer_teaches=(),
        policy=PairPolicy(**policy),
    )
    return Link(
        cast("Any", plane),
        cast("Any", Grant()),
        pair,
        cast("Any", Held()),
        cast("Any", student),
        "http://own",
        stopping=(stopping or threading.Event()).is_set,
        moved=lambda url, key: None,
        seen=seen,
        clock=Clock(tick),
    )


@pytest.fixture
def plane() -> Iterator[Plane]:
    yield Plane()


@pytest.mark.parametrize(("lag", "waits"), [(0, False), (2, False), (3, True)])
def test_the_faster_waits_at_the_bound_and_not_before(plane: Plane, lag: int, waits: bool) -> None:
    plane.publishes(10)
    with link(plane, max_lag=2) as mine:
        met = threading.Event()

        def meet() -> None:
            mine.meet(10 + lag + 1)  # which is scored for the student after 10 + lag
            met.set()

        thread = threading.Thread(target=meet)
        thread.start()
        assert met.wait(0.5 if waits else 20) is not waits
        plane.publishes(10 + lag)
        assert met.wait(20)
        thread.join()
        assert mine.step == 10 + lag and not mine.alone


def test_it_goes_on_where_the_policy_says_so_and_never_waits_for_who_is_ahead(plane: Plane) -> None:
    plane.publishes(10)
    with link(plane, max_lag=0, on_lag="go_on") as mine:
        mine.meet(100)
    with link(plane, max_lag=0) as mine:
        mine.meet(3)
        assert mine.metrics(3)["peer_alone"] == 0.0


def test_a_peer_that_is_never_heard_of_is_lost_and_taken_up_again_at_its_checkpoint(plane: Plane) -> None:
    plane.publishes(40)
    with link(plane, tick=2.0, max_lag=0, patience=20) as mine:
        mine.meet(50)
        assert mine.alone and mine.metrics(50)["peer_alone"] == 1.0
        mine.meet(51)  # at once: nobody is waited for any more
        plane.publishes(30, incarnation=2)
        assert heard_again(mine)
        assert mine.check_published(version_of(2, 30), "peer") == version_of(2, 30)
        mine.meet(31)
        assert not mine.alone


def heeded(mine: Link, version: int) -> tuple[threading.Thread, list[bool]]:
    """Whether it heeds this version, as known once it has waited."""
    told = list[bool]()
    thread = threading.Thread(target=lambda: told.append(mine.heeds(version)))
    thread.start()
    return thread, told


def test_what_an_older_checkpoint_answers_is_not_heard_and_its_peer_is_waited_for(plane: Plane) -> None:
    plane.publishes(41)
    with link(plane, max_lag=2) as mine:
        mine.meet(43)
        assert mine.heeds(version_of(1, 41)) and mine.heeds(version_of(1, 40))
        plane.publishes(30, incarnation=2)  # its worker was killed, and the request is answered by the next one
        thread, told = heeded(mine, mine.check_published(version_of(2, 30), "peer"))
        thread.join(0.5)
        assert thread.is_alive()
        plane.publishes(39, incarnation=2)
        thread.join(0.5)
        assert thread.is_alive()
        plane.publishes(40, incarnation=2)
        thread.join(20)
        assert told == [False] and mine.heeds(version_of(2, 40)) and not mine.alone


@pytest.mark.parametrize("done", [False, True], ids=["goes on", "has done all its steps"])
def test_what_is_too_far_behind_is_heard_where_nobody_waits_for_better(plane: Plane, done: bool) -> None:
    plane.publishes(41)
    plane.done = done
    with link(plane, max_lag=2, on_lag="wait" if done else "go_on") as mine:
        mine.meet(43)
        plane.publishes(30, incarnation=2)
        assert mine.heeds(mine.check_published(version_of(2, 30), "peer"))


@pytest.mark.parametrize("on_loss", ["alone", "stop"])
def test_who_stays_too_far_behind_is_lost_like_who_does_not_answer(plane: Plane, on_loss: str) -> None:
    plane.publishes(41)
    with link(plane, tick=2.0, max_lag=2, patience=20, on_loss=on_loss) as mine:
        mine.meet(43)
        plane.publishes(30, incarnation=2)
        version = mine.check_published(version_of(2, 30), "peer")
        if on_loss == "stop":
            with pytest.raises(PeerLost):
                mine.heeds(version)
            return
        waited = mine.heeds(version)
        assert not waited and mine.alone and mine.metrics(43)["peer_waited_seconds"] > 20


def test_an_answer_that_is_too_far_behind_ends_with_the_run_too(plane: Plane) -> None:
    stopping = threading.Event()
    plane.publishes(41)
    with link(plane, stopping, max_lag=2) as mine:
        mine.meet(43)
        stopping.set()
        with pytest.raises(Interrupted):  # whoever answers so, though the newest one is near
            mine.heeds(version_of(1, 30))


@pytest.mark.parametrize("done", [False, True], ids=["stays near", "has done all its steps"])
def test_a_peer_that_publishes_nothing_any_more_is_heard_again_when_it_answers_again(plane: Plane, done: bool) -> None:
    plane.publishes(10)
    plane.done, answers, looks = done, threading.Event(), threading.Semaphore(0)

    def seen(url: str, key: str | None) -> int | None:
        assert (url, key) == ("http://peer", None)
        looks.release()
        if answers.is_set():
            return version_of(1, 10)
        raise TeacherUnavailable("the link is cut", teacher="peer")

    with link(plane, tick=10.0, seen=seen, max_lag=2, patience=60) as mine:
        mine.meet(11)
        mine.silent(TeacherUnavailable("the link is cut", teacher="peer"), "peer")
        for _ in range(2):
            assert looks.acquire(timeout=20) and mine.alone, "it is looked for, and is not there"
        answers.set()
        assert heard_again(mine)
        mine.meet(12)
        assert mine.metrics(12)["peer_alone"] == 0.0


@pytest.mark.parametrize(
    ("state", "own_step", "version"),
    [("running", 13, version_of(1, 10)), ("running", 10, version_of(9, 10)), ("succeeded", 10, version_of(1, 10))],
    ids=["it is too far behind", "another answers there", "it has ended"],
)
def test_who_answers_is_not_always_a_peer_to_be_heard(plane: Plane, state: str, own_step: int, version: int) -> None:
    plane.publishes(10)
    plane.state, looked = state, threading.Event()

    def seen(url: str, key: str | None) -> int | None:
        looked.set()
        return version

    with link(plane, tick=2.0, seen=seen, max_lag=2, patience=20) as mine:
        mine.meet(own_step + 1)
        mine.silent(TeacherUnavailable("the link is cut", teacher="peer"), "peer")
        for _ in range(8):  # so much time passes
            mine._seek()  # pyright: ignore[reportPrivateUsage]
        assert looked.is_set() is (version == version_of(9, 10)), "only one that could be heard is looked for"
        assert mine.alone


def heard_again(mine: Link) -> bool:
    with mine._changed:  # pyright: ignore[reportPrivateUsage]
        return mine._changed.wait_for(lambda: not mine.alone, timeout=20)  # pyright: ignore[reportPrivateUsage]


def test_where_the_pair_stops_then_the_run_fails_with_a_sentence(plane: Plane) -> None:
    plane.url = None
    with link(plane, tick=2.0, patience=20, on_loss="stop") as mine, pytest.raises(PeerLost, match="run-peer, running"):
        mine.meet(1)


def test_who_has_done_all_its_steps_is_not_waited_for(plane: Plane) -> None:
    plane.publishes(10)
    plane.state = "succeeded"
    with link(plane, max_lag=0, on_loss="stop") as mine:
        mine.meet(100)


def test_who_is_done_says_so_and_answers_until_the_other_is(plane: Plane) -> None:
    plane.publishes(10)
    student = Student()
    student.go.set()
    with link(plane, student=student) as mine:
        mine.publish(10, Trained({}), {})
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (mine.linger(), ended.set()))
        thread.start()
        assert not ended.wait(0.5) and plane.told_done
        plane.done = True
        assert ended.wait(20)
        thread.join()


def test_waiting_ends_when_the_run_is_to_stop(plane: Plane) -> None:
    stopping = threading.Event()
    stopping.set()
    with link(plane, stopping) as mine, pytest.raises(Interrupted):
        mine.meet(1)


def test_a_version_that_was_never_published_is_an_error_and_one_just_published_is_none(plane: Plane) -> None:
    plane.publishes(1)
    with link(plane) as mine:
        plane.publishes(2)
        assert step_of(mine.check_published(version_of(1, 2), "peer")) == 2
        for version in (version_of(1, 3), 0, None):
            with pytest.raises(NeverPublished, match="never"):
                mine.check_published(version, "peer")


def test_what_is_known_is_the_same_for_all_of_a_step_and_begins_with_what_was_recorded(plane: Plane) -> None:
    plane.own.append(
        Publication(version=version_of(1, 1), step=1, weights_hash=HASH, outcomes={"maths": Outcomes(wrong=9)})
    )
    plane.publishes(1, maths=Outcomes(right=9))
    with link(plane) as mine:
        before = mine.meet(2)
        assert before["maths"].own.wrong == 9 and before["maths"].peer.right == 9
        plane.publishes(2, maths=Outcomes(right=9))
        mine.check_published(version_of(1, 2), "peer")
        assert mine.meet(2) is before
        assert mine.meet(3)["maths"].peer.right > 9


def test_two_threads_that_wait_for_one_step_hear_the_same(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is of a step that was thrown away, and is left to its own end."""
    with link(plane, patience=60) as mine, ThreadPoolExecutor(2) as threads:
        monkeypatch.setattr(Standings, "now", lambda known: {"maths": object()})
        asked = [threads.submit(mine.meet, 1) for _ in range(2)]
        while len(cast("Any", mine._changed)._waiters) < 2:
            pass
        plane.publishes(1)
        first, second = (each.result(10) for each in asked)
    assert first is second


def test_an_error_that_nobody_foresaw_leaves_it_listening(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    published, failures = plane.published, [RuntimeError("no such field")]

    def once(run: str, *, after: int = 0) -> Published:
        if threading.current_thread() is not threading.main_thread() and failures:
            raise failures.pop()
        return published(run, after=after)

    plane.published = once
    with link(plane, patience=60) as mine:
        while failures:
            mine._wanted.set()
        plane.publishes(1)
        assert mine.meet(1) == {}
    assert "no such field" in caplog.text and "Traceback" in caplog.text


def test_a_version_is_published_while_the_run_goes_on_and_all_of_them_in_turn(plane: Plane) -> None:
    plane.done, student = True, Student()
    with link(plane, student=student, patience=60) as mine:
        mine.publish(1, Trained({}), {"maths": Outcomes(right=3)})
        assert not student.moved, "nobody waited for it"
        assert mine.meet(2)["maths"].own.right == 3, "what is known does not depend on who was sooner"
        student.go.set()
        mine.publish(2, Trained({}), {})
        mine.linger()
    assert student.moved == [version_of(1, 1), version_of(1, 2)]
    assert plane.told == [*student.moved, student.moved[-1]] and plane.told_done


def test_a_version_that_does_not_fit_ends_the_run_with_the_next_one_or_at_the_end(plane: Plane) -> None:
    plane.done, student = True, Student()
    student.go.set()
    student.fits = False
    with link(plane, student=student) as mine:
        mine.publish(1, Trained({}), {})
        with pytest.raises(Invalid, match="NaN"):
            mine.publish(2, Trained({}), {})
        mine.publish(2, Trained({}), {})
        with pytest.raises(Invalid, match="NaN"):
            mine.linger()
    assert not plane.told
