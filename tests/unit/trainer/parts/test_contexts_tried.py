"""Contexts around attempts: whose they are, what is never shown, and that the pieces read like the single contexts."""

from __future__ import annotations

from random import Random

import pytest
from pydantic import ValidationError

from preceptor_trainer.parts.contexts import PeerSuccess
from preceptor_trainer.parts.contexts_tried import Feedback, PeerFailure, Reprompt, without_thinking
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

TASK = Task(id="one", messages=(Message(role="system", content="S"), Message(role="user", content="6*7?")), answer="42")


def view(verdicts: str, own: int = 0, feedback: str | None = None, seed: int = 0) -> ContextView:
    """A group of `r`ight, `w`rong and unjudged (`-`) attempts; feedback is on the scored one."""
    group = [
        Rollout(
            index=index,
            text=f"<think>hm</think>try {index}",
            verdict=None
            if each == "-"
            else Verdict(
                reward=float(each == "r"), correct=each == "r", feedback=feedback if index == own else "other"
            ),
        )
        for index, each in enumerate(verdicts)
    ]
    return ContextView(task=TASK, rollout=group[own], group=group, step=1, rng=Random(seed))


def said(part: Reprompt | Feedback | PeerFailure | PeerSuccess, seen: ContextView) -> str | None:
    messages = part.messages(seen)
    if messages is None:
        return None
    assert messages[0] == TASK.messages[0]
    return messages[-1]["content"]


def test_nothing_known_is_no_opinion() -> None:
    assert said(Reprompt(), view("ww")) is None and said(Reprompt(), view("r")) is None
    assert said(Reprompt(), view("r-")) is None, "a sole success is not shown to itself"
    assert said(Feedback(), view("w")) is None and said(PeerFailure(), view("rr")) is None
    assert said(Reprompt(failures=2), view("www")) is None, "failures alone say too little"


def test_each_piece_reads_like_its_own_context() -> None:
    seen = view("wr", feedback="an odd length")
    assert said(Reprompt(feedback=False), view("wr")) == str(said(PeerSuccess(), view("wr"))).replace(
        "<think>hm</think>", ""
    )
    assert said(Reprompt(successes=0), seen) == said(Feedback(), seen)


def test_success_then_failure_then_feedback_on_the_scored_attempt_alone() -> None:
    text = str(said(Reprompt(successes=2, failures=1), view("wrwr", feedback="mine")))
    places = [text.index(each) for each in ("6*7?", "try", "Incorrect attempt", "try 2", "mine", "Correctly solve")]
    assert places == sorted(places)
    assert "try 0" not in text and "other" not in text and "think" not in text
    assert {"try 1", "try 3"} <= {f"try {each}" for each in text if each.isdigit()}


def test_which_are_shown_is_drawn_from_the_views_random_numbers() -> None:
    shown = {said(Reprompt(feedback=False), view("w" + "r" * 6, seed=seed)) for seed in range(20)}
    assert 1 < len(shown) <= 6
    assert said(Reprompt(), view("wrrr", seed=3)) == said(Reprompt(), view("wrrr", seed=3))


def test_the_control_arm_keeps_the_words_and_corrupts_the_content() -> None:
    right, wrong = (str(said(Reprompt(wrong=each), view("wr", feedback="line 2"))) for each in (False, True))
    assert wrong != right and "try 1" not in wrong and "line 2" not in wrong
    assert [c for c in wrong if not c.isdigit()] == [c for c in right if not c.isdigit()]


def test_templates_hold_their_places_once() -> None:
    for change in (
        {"template": "{question}"},
        {"success_template": "x"},
        {"feedback_template": "{feedback}{feedback}"},
    ):
        with pytest.raises(ValidationError, match="exactly once"):
            Reprompt.model_validate(change)


def test_thinking_is_no_part_of_a_solution() -> None:
    assert without_thinking("<think>a\nb</think>\n\nc") == "c" and without_thinking("c") == "c"
