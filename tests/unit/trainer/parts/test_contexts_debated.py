"""The debate context: who is asked what, who is heard, what each counts; the protocol itself has tests of its own."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.views import ContextView, Message, Rollout, Task

TASK = Task(id="one", messages=(Message(role="user", content="Which number is six times seven?"),), answer="42")


def view(replies: Mapping[str, str] | None = None, task: Task = TASK, text: str = "it is 41") -> ContextView:
    own = Rollout(index=0, text=text)
    return ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0), replies=replies or {})


def reply(said: str, sure: int) -> str:
    return f"<argument>{said}</argument><confidence>{sure}</confidence>"


def held(part: Debate, replies: Mapping[str, str], text: str = "it is 41") -> ContextView:
    """The view once the debate has ended; whoever has no reply, or a bad one, is missing."""
    kept: dict[str, str] = {}
    while asks := part.asks(view(kept, text=text)):
        seen = view(kept, text=text)
        for ask in asks:
            try:
                kept[ask.key] = part.read(seen, ask.key, replies.get(ask.key, ""))
            except ValueError:
                kept[ask.key] = part.missed(seen, ask.key, "unreadable")
    return view(kept, text=text)


SAID = {
    "1/first": reply("a", 10),
    "1/second": reply("b", 10),
    "2/first": reply("c", 90),
    "2/second": reply("d", 40),
}


def test_a_debate_is_shown_to_each_debater_weighed_by_softmax_of_its_last_confidence() -> None:
    part = Debate(tau=0.5)
    seen = held(part, SAID)
    prompts = part.prompts(seen)
    assert [each.teacher for each in prompts] == ["first", "second"]
    assert "first: a\nsecond: b\nfirst: c\nsecond: d" in prompts[0].messages[0]["content"]
    scores = [exp(0.9 / 0.5), exp(0.4 / 0.5)]
    assert [each.weight for each in prompts] == pytest.approx([score / sum(scores) for score in scores])
    later = part.asks(view({key: seen.replies[key] for key in ("1/first", "1/second")}))
    assert all("second: b" in ask.messages[0]["content"] for ask in later)
    alone = Debate(debaters=("first",))
    (only,) = alone.prompts(held(alone, SAID))
    assert only.weight == 1.0


def test_who_babbles_is_not_heard_and_the_others_shares_are_whole() -> None:
    part = Debate(debaters=("first", "second", "third"))
    seen = held(part, {**SAID, "1/third": reply("e", 99), "2/third": "I cannot say."})
    first, second = part.prompts(seen)
    assert (first.teacher, second.teacher) == ("first", "second")
    assert first.weight + second.weight == pytest.approx(1.0) and first.weight > second.weight
    (only,) = part.prompts(held(part, {key: said for key, said in SAID.items() if key.endswith("first")}))
    assert (only.teacher, only.weight) == ("first", 1.0)
    assert part.prompts(held(part, {})) == (), "nobody is left: there is no opinion"
    strict = part.model_copy(update={"quorum": 3})
    assert strict.prompts(seen) == ()


def test_a_blind_debate_is_the_same_for_every_rollout() -> None:
    for sighted in (True, False):
        part = Debate(sighted=sighted)
        texts = [part.asks(view(text=text))[0].messages[0]["content"] for text in ("it is 41", "it is 42")]
        assert (texts[0] != texts[1]) == sighted and ("it is 41" in texts[0]) == sighted


def test_others_may_speak_in_the_debaters_stead() -> None:
    part = Debate(speakers=("one", "other"), roles=("Be bold. ",), ask_template="{role}" + Debate().ask_template)
    assert (part.writers, part.scorers) == (("one", "other"), ("first", "second"))
    asks = part.asks(view())
    assert [(ask.key, ask.teacher) for ask in asks] == [("1/first", "one"), ("1/second", "other")]
    assert all(ask.messages[0]["content"].startswith("Be bold. You are") for ask in asks)
    assert [each.teacher for each in part.prompts(held(part, SAID))] == ["first", "second"]


def test_a_stop_rule_saves_rounds() -> None:
    part = Debate(rounds=3, stop=("agreement",))
    seen = held(part, {"1/first": reply("It is 42.", 70), "1/second": reply("it is  42.", 70)})
    assert list(seen.replies) == ["1/first", "1/second"]
    assert [each.weight for each in part.prompts(seen)] == [0.5, 0.5]


def test_a_debate_of_the_data_is_read_by_all_alike_unless_it_is_not_wanted() -> None:
    task = Task(id="x", messages=TASK.messages, columns={"debate": "He said, she said."})
    part = Debate(debaters=("a", "b", "c", "d"))
    assert part.asks(view(task=task)) == ()
    prompts = part.prompts(view(task=task))
    assert [each.weight for each in prompts] == [0.25] * 4 and "she said" in prompts[0].messages[0]["content"]
    assert len(part.model_copy(update={"from_data": False}).asks(view(task=task))) == 4


def test_the_control_arm_corrupts_the_transcript() -> None:
    part = Debate(wrong=True)
    (one, _) = part.prompts(held(part, {key: said.replace("a<", "42<") for key, said in SAID.items()}))
    assert "first: 42" not in one.messages[0]["content"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"debaters": ("a", "a")}, "named twice"),
        ({"debaters": ()}, "at least 1"),
        ({"debaters": tuple("abcdefghi")}, "at most 8"),
        ({"speakers": ("a",)}, "one for each of the 2"),
        ({"quorum": 3}, "never left of 2"),
        ({"rounds": 9}, "less than or equal to 8"),
        ({"template": "{question}"}, r"template: it must hold \{debate\}"),
        ({"ask_template": "{question} {debate} <argument> <confidence>"}, r"ask_template: it must hold \{attempt\}"),
        ({"blind_template": Debate().ask_template}, "blind_template: it holds"),
        ({"blind_template": "{question} {debate} <argument>"}, "blind_template: it must ask"),
    ],
)
def test_what_makes_no_debate_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Debate(**changes)
