"""A worker in this process holds debates of a control plane in this process; the debaters are HTTP servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from preceptor.wire.debates import Debate, DebateCreate, DebateState, DebateTurn
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.cache import ArtifactCache
from preceptor_services.worker.debate import hold
from tests.contract.conftest import House
from tests.contract.debating import register
from tests.debaters import Debater, Say, debater, reply

Meet = Callable[..., dict[str, Debater]]


@pytest.fixture
def meet(sqlite_house: House) -> Iterator[Meet]:
    """Serves and registers debaters, by name."""
    with ExitStack() as serving:

        def meet(*, tokens: int | None = 7, **says: Say) -> dict[str, Debater]:
            found = {name: serving.enter_context(debater(say, tokens=tokens)) for name, say in says.items()}
            for name, one in found.items():
                register(sqlite_house, name, one.url)
            return found

        yield meet


def bench(house: House) -> Bench:
    folder = house.tmp / "worker"
    cache = ArtifactCache(house.admin, folder, 10**9)
    return Bench(client=house.admin, name="w", folder=folder, cache=cache, teacher_deadline=5.0)


def held(house: House, says: dict[str, Debater], **changes: object) -> Debate:
    wish = DebateCreate.model_validate({"question": "Six times seven?", "teachers": tuple(says), **changes})
    debate = house.admin.debates.start(wish)
    hold(debate.id, bench(house))
    return house.admin.debates.get(debate.id)


def test_debaters_speak_side_by_side_until_they_agree(sqlite_house: House, meet: Meet) -> None:
    together = threading.Barrier(3, timeout=30)

    def say(answer: str) -> Say:
        def said(prompt: str) -> str:
            together.wait()  # nobody is answered before all three are asked
            return reply("So it is.", 80, "42" if "(answer: 42)" in prompt else answer)

        return said

    says = meet(ann=say("42"), bob=say("41"), cid=say("40"))
    debate = held(sqlite_house, says, overrides={"rounds": 3})
    assert debate.state is DebateState.SUCCEEDED and debate.result is not None, debate.error
    assert (debate.result.ended, debate.result.rounds, debate.result.agreed) == ("agreement", 2, True)
    assert debate.result.answer == "42" and debate.result.weights == pytest.approx(dict.fromkeys(says, 1 / 3))
    assert (debate.result.calls, debate.result.tokens) == (6, 42) and [len(each.prompts) for each in says.values()] == [
        2
    ] * 3
    assert "bob: So it is. (answer: 41)" in debate.result.transcript and "41" not in says["ann"].prompts[0]
    hold(debate.id, bench(sqlite_house))
    assert len(says["ann"].prompts) == 2, "a message that comes twice does nothing"


def test_who_fails_babbles_or_goes_on_and_on_is_excluded_and_counted(sqlite_house: House, meet: Meet) -> None:
    says = meet(
        ann=lambda prompt: reply("It is 42.", 90),
        bob=lambda prompt: reply("It is 42.", 50),
        dead=lambda prompt: 400,
        vague=lambda prompt: reply("It is 42.", "quite"),
        chatty=lambda prompt: reply("It is 42. " * 300, 100),
        noise=lambda prompt: "\x01\x02" * 500,
    )
    debate = held(sqlite_house, says, tau=0.2)
    assert debate.result is not None and debate.state is DebateState.SUCCEEDED, debate.error
    missing = {each.debater: each.missing for each in debate.result.excluded}
    assert missing == {"dead": "unavailable", "vague": "unreadable", "chatty": "cut_off", "noise": "unreadable"}
    assert set(debate.result.weights) == {"ann", "bob"} and sum(debate.result.weights.values()) == pytest.approx(1)
    assert debate.result.weights["ann"] / debate.result.weights["bob"] == pytest.approx(2.718281828**2)
    assert [each.debater for each in debate.result.excluded] == ["dead", "vague", "chatty", "noise"], (
        "as they were named"
    )
    details = {turn.debater: turn.detail or "" for turn in debate.turns if turn.missing is not None}
    assert "It wrote: " in details["vague"] and "quite" in details["vague"].partition("It wrote: ")[2]
    assert "It is 42. It is 42." in details["chatty"] and details["chatty"].endswith(" ...")
    assert sqlite_house.admin.debates.start(debate.wish).cached_from is None, "the dead one may live another time"


def test_below_the_quorum_it_fails_and_says_who_did(sqlite_house: House, meet: Meet) -> None:
    says = meet(ann=lambda prompt: "Hm.", bob=lambda prompt: reply("It is 42.", 50), tokens=None)
    debate = held(sqlite_house, says, quorum=2)
    assert debate.state is DebateState.FAILED and debate.error is not None
    assert "1 of 2 debaters are left" in debate.error.detail and "ann in round 1: unreadable" in debate.error.detail
    assert debate.error.remedy and debate.result is not None
    assert debate.result.tokens == 3 + len(reply("It is 42.", 50)), "a server that does not count is charged bytes"


def test_a_token_budget_ends_it_before_a_round_that_it_does_not_cover(sqlite_house: House, meet: Meet) -> None:
    says = meet(ann=lambda prompt: reply("a", 50, "a"), bob=lambda prompt: reply("b", 50, "b"), tokens=30)
    debate = held(sqlite_house, says, max_tokens=30, budget={"tokens": 119}, stop=())
    assert debate.result is not None
    assert (debate.result.ended, debate.result.rounds, debate.result.tokens) == ("token_budget", 1, 60)


def test_a_round_that_time_cuts_leaves_the_debate_as_it_stood(
    sqlite_house: House, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, ahead = threading.Event(), [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("preceptor_services.worker.debate.time", clock)

    def slow(prompt: str) -> str:
        if "(nothing)" not in prompt:
            ahead[0] = 1000.0  # while it thinks about the second round
            released.wait(30)
        return reply("b", 50, "b")

    says = meet(ann=lambda prompt: reply("a", 50, "a"), bob=slow)
    try:
        debate = held(sqlite_house, says, budget={"seconds": 600}, stop=())
    finally:
        released.set()
    assert debate.state is DebateState.SUCCEEDED and debate.result is not None, debate.error
    assert (debate.result.ended, debate.result.rounds, debate.result.excluded) == ("time_budget", 1, ())
    assert set(debate.result.weights) == {"ann", "bob"} and debate.turns[-1].missing == "late"


def test_whoever_takes_it_up_asks_for_nothing_twice(sqlite_house: House, meet: Meet) -> None:
    says = meet(ann=lambda prompt: reply("a", 50, "a"), bob=lambda prompt: reply("b", 70, "b"))
    debates = sqlite_house.admin.debates
    debate = debates.start(DebateCreate(question="?", teachers=("ann", "bob"), stop=()))
    debates.lease(debate.id, "killed")
    said = DebateTurn(round=1, debater="ann", argument="before", answer="x", confidence=30, tokens=5)
    debates.record(debate.id, 1, [said])
    sqlite_house.clock.pass_seconds(sqlite_house.settings.lease_seconds + 1)
    hold(debate.id, bench(sqlite_house))
    done = debates.get(debate.id)
    assert done.state is DebateState.SUCCEEDED and done.result is not None and done.attempt == 2
    assert (len(says["ann"].prompts), len(says["bob"].prompts)) == (1, 2)
    assert done.turns[0] == said and done.result.calls == 4 and done.result.tokens == 5 + 3 * 7
    assert "ann: before" in says["bob"].prompts[1]


def test_a_debate_is_cancelled_between_two_answers_and_given_back_when_its_worker_is_to_stop(
    sqlite_house: House, meet: Meet
) -> None:
    debates, ids, here = sqlite_house.admin.debates, list[str](), bench(sqlite_house)

    def cancels(prompt: str) -> str:
        debates.cancel(ids[-1])
        return reply("a", 50, "a")

    def stops(prompt: str) -> str:
        here.stopping.set()
        return reply("a", 50, "a")

    meet(ann=cancels, bob=lambda prompt: reply("b", 70, "b"), stop=stops)
    ids.append(debates.start(DebateCreate(question="?", teachers=("ann", "bob"), stop=())).id)
    hold(ids[-1], here)
    assert debates.get(ids[-1]).state is DebateState.CANCELLED
    ids.append(debates.start(DebateCreate(question="?", teachers=("stop", "bob"), stop=())).id)
    hold(ids[-1], here)
    assert debates.get(ids[-1]).state is DebateState.QUEUED and sqlite_house.queue.sent[-1] == ids[-1]


def test_a_debater_that_was_taken_off_the_list_is_excluded(sqlite_house: House, meet: Meet) -> None:
    says = meet(ann=lambda prompt: reply("a", 50, "a"), bob=lambda prompt: reply("b", 70, "b"))
    debates = sqlite_house.admin.debates
    debate = debates.start(DebateCreate(question="?", teachers=tuple(says)))
    sqlite_house.admin.teachers.remove("bob")
    hold(debate.id, bench(sqlite_house))
    result = debates.get(debate.id).result
    assert result is not None and result.weights == {"ann": 1.0}
    assert [(each.debater, each.missing) for each in result.excluded] == [("bob", "unavailable")]
