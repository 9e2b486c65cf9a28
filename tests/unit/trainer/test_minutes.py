"""What is told of a run's debates: who said what about which rollout, what it took, and each debate once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preceptor.errors import TeacherUnavailable
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.debate_reports import HeldDebate, KnownDebate, RunWish
from preceptor.wire.runs import OnFailure
from preceptor_trainer.asking import Scorer
from preceptor_trainer.minutes import minutes, recall
from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.texts import Case, Texts
from preceptor_trainer.views import ContextView, Message, Rollout, Task

TASK = Task(id="one", messages=(Message(role="user", content="Six times seven?"),), answer="42")


class Hall:
    """A scorer that only writes: `first` is sure, `second` says what a test has it say."""

    def __init__(self, second: Reply | Exception) -> None:
        self._second = second

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        if role == "first":
            text = "<argument>It is 42.</argument><confidence>90</confidence>"
            return Reply(text=text, finished=True, tokens=7, weights_version=3)
        if isinstance(self._second, Exception):
            raise self._second
        return self._second

    def card(self, role: str) -> object:
        return SimpleNamespace(teacher=f"the {role}", model="m", engine="e", weights_version=2, weights_hash=None)


SECOND = Reply(text="<argument>It is 41.</argument><confidence>10</confidence>", finished=True)


def cases(part: Debate, texts: Sequence[str], task: Task = TASK) -> list[Case]:
    """The context on a question's rollouts."""
    group = tuple(Rollout(index=index, text=text) for index, text in enumerate(texts))

    def case(own: Rollout) -> Case:
        def view(replies: Mapping[str, str]) -> ContextView:
            return ContextView(task=task, rollout=own, group=group, step=2, rng=Random(0), replies=replies)

        return Case(name="debate", asker=part, on_failure=part.on_failure, row=own.index, view=view)

    return [case(own) for own in group]


def held(part: Debate, texts: Sequence[str], second: Reply | Exception = SECOND, task: Task = TASK, step: int = 2):
    scorer, asked = cast("Scorer", Hall(second)), cases(part, texts, task)
    Texts(scorer, seed=0).gather(asked, step)
    return minutes(asked, step, scorer)


def test_a_debate_is_told_with_what_it_was_about_by_whom_and_what_it_took() -> None:
    one, other = held(Debate(rounds=1, tau=0.5), ["it is 41", "it is 42"])
    assert [(each.step, each.context, each.task, each.rollout) for each in (one, other)] == [
        (2, "debate", "one", 0),
        (2, "debate", "one", 1),
    ]
    assert (one.wish.question, one.wish.attempt, other.wish.attempt) == ("Six times seven?", "it is 41", "it is 42")
    assert (one.wish.teachers, one.wish.tau, one.wish.budget.tokens) == (("first", "second"), 0.5, 2 * 512)
    assert one.template == Debate(rounds=1).worded
    assert {name: (voice.role, voice.teacher, voice.weights_version) for name, voice in one.voices.items()} == {
        "first": ("first", "the first", 2),
        "second": ("second", "the second", 2),
    }
    first, second = one.turns
    assert (first.argument, first.confidence, first.tokens, first.weights_version) == ("It is 42.", 90, 7, 3)
    assert (second.weights_version, second.tokens) == (2, len(SECOND.text)), "it states neither"
    assert all(turn.seconds > 0 and turn.detail is None for turn in one.turns)


def test_what_all_rollouts_of_a_question_share_is_told_once_at_the_first() -> None:
    (only,) = held(Debate(sighted=False), ["a", "b", "c"])
    assert (only.rollout, only.wish.attempt, len(only.turns)) == (0, None, 4)
    assert len(held(Debate(sighted=True), ["a", "a", "b"])) == 2


@pytest.mark.parametrize(
    ("second", "missing", "detail"),
    [
        (Reply(text="Hm.", finished=True, tokens=1), "unreadable", "<confidence>"),
        (Reply(text="<arg", finished=False, tokens=512), "cut_off", "cut off at 512 tokens"),
        (TeacherUnavailable("gone", teacher="s"), "unavailable", "Nobody answered."),
    ],
)
def test_who_was_excluded_is_told_with_the_reason(second: Reply | Exception, missing: str, detail: str) -> None:
    (one,) = held(Debate(rounds=2, on_failure="drop"), ["a"], second)
    assert [(turn.round, turn.debater) for turn in one.turns] == [(1, "first"), (1, "second"), (2, "first")]
    lost = one.turns[1]
    assert lost.missing == missing and detail in (lost.detail or "")
    assert lost.tokens == (0 if isinstance(second, Exception) else second.tokens)


class Shelf:
    """Knows what was told of a blind debate about `known`."""

    def __init__(self, known: HeldDebate) -> None:
        self._known = known
        self.asked: list[RunWish] = []

    def known(self, wishes: Sequence[RunWish]) -> list[KnownDebate | None]:
        self.asked += wishes
        same = [each.wish == self._known.wish for each in wishes]
        return [KnownDebate(debate="debate-1", turns=self._known.turns) if each else None for each in same]


def test_what_was_held_before_is_taken_and_nobody_is_asked() -> None:
    part = Debate(sighted=False)
    (before,) = held(part, ["a"])
    shelf, asked, silent = (
        Shelf(before),
        cases(part, ["b", "c"]),
        cast("Scorer", Hall(TeacherUnavailable("", teacher="s"))),
    )
    recall(asked, silent, shelf)
    assert len(shelf.asked) == 1, "rollouts that share a debate ask for it once"
    assert shelf.asked[0].model_dump() == before.model_dump(include={"wish", "template", "voices"})
    assert Texts(silent, seed=0).gather(asked, 2) == {}
    assert [part.turns(each.seen()) for each in asked] == [list(before.turns)] * 2
    (taken,) = minutes(asked, 2, silent)
    assert (taken.cached_from, taken.turns, taken.rollout) == ("debate-1", (), 0)


@pytest.mark.parametrize("changes", [{"fresh": True}, {"temperature": 0.5}, {"from_data": True}])
def test_a_debate_that_is_drawn_or_wanted_anew_is_not_looked_for(changes: dict[str, Any]) -> None:
    part = Debate(**changes)
    shelf = Shelf(held(Debate(), ["a"])[0])
    given = Task(id="x", messages=TASK.messages, columns={"debate": "said"} if "from_data" in changes else {})
    recall(cases(part, ["a"], given), cast("Scorer", Hall(SECOND)), shelf)
    assert shelf.asked == []


def test_what_is_not_to_be_stored_and_what_the_data_brings_is_not_told() -> None:
    assert held(Debate(record_every=0), ["a"]) == () and held(Debate(record_every=2), ["a"], step=3) == ()
    assert len(held(Debate(record_every=2), ["a"], step=4)) == 1
    given = Task(id="x", messages=TASK.messages, columns={"debate": "He said, she said."})
    assert held(Debate(), ["a"], task=given) == ()


def test_a_text_that_is_too_long_for_the_record_is_cut_and_an_empty_question_named() -> None:
    empty = Task(id="x", messages=(Message(role="user", content=""),))
    (one,) = held(Debate(rounds=1), ["a" * 100_001], task=empty)
    assert one.wish.attempt == "a" * 100_000 and one.wish.question == "(nothing)"
