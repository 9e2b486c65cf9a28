"""What the scripted teacher writes is right, by working it out another way; what it does not know it says."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from preceptor_services.teacher.scripts import UNKNOWN, reply, solved
from preceptor_trainer import tasks
from preceptor_trainer.views import Task

SPELL = "Spell this word backward (example: sun -> nus): planet"
SUM = "State the final answer to the following arithmetic problem: 4 + 3 - 9 ="


def wish(tag: str, question: str, attempt: str) -> str:
    return (
        f"Please.\n<question>\n{question}\n</question>\n\n<attempt>\n{attempt}\n</attempt>\n\n"
        f"Reply between <{tag}> and </{tag}>."
    )


def said(tag: str, question: str, attempt: str = "") -> str:
    found = re.fullmatch(rf".*<{tag}>\n(.*)\n</{tag}>.*", reply(wish(tag, question, attempt)), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["spell_backward", "chain_sum"])
def test_it_solves_every_question_of_its_tasks(name: str) -> None:
    source = tasks.load(name)
    for task in source.take("validation", 20):
        lines = solved(task.messages[-1]["content"])
        assert lines is not None and "\n".join(lines) == task.reference


@pytest.mark.parametrize("name", ["spell_backward", "chain_sum"])
def test_a_critique_is_the_attempt_up_to_its_first_wrong_step_and_right_in_the_end(name: str) -> None:
    rng = Random(0)
    for task in tasks.load(name).take("validation", 20):
        question, right = task.messages[-1]["content"], str(task.reference)
        assert said("critique", question, right) == right
        lines = right.split("\n")
        at = rng.randrange(len(lines))
        wrong = "\n".join([*lines[:at], "9999", *lines[at + 1 :]])
        assert said("critique", question, wrong) == right
        assert said("judgement", question, right) == "right" and said("judgement", question, wrong) == "wrong"


def test_a_sum_that_is_right_step_by_step_need_not_be_the_reference() -> None:
    other = "3 + 4 = 7\n7 - 9 = -2\n#### -2"
    assert said("critique", SUM, other) == other
    assert said("critique", SUM, "3 + 4 = 8\n#### -2") == "4 + 3 = 7\n7 - 9 = -2\n#### -2"


@pytest.mark.parametrize(("question", "attempt"), [(SPELL, "tenalq"), (SUM, "4 + 3 = 7\n7 - 9 = 2\n#### 2")])
def test_feedback_says_where_and_not_what(question: str, attempt: str) -> None:
    text, answer = said("feedback", question, attempt), solved(question)
    assert answer is not None and answer[-1].removeprefix("#### ") not in text
    assert ("letter 6" in text) if question == SPELL else ("line 2" in text)


def test_spans_are_quotes() -> None:
    for question, attempt in ((SPELL, "tenalp"), (SPELL, "planet"), (SUM, "4 + 3 = 8\n8 - 9 = -1\n#### -1")):
        (span,) = json.loads(said("spans", question, attempt))
        assert span["text"] in attempt and span["label"]
    (span,) = json.loads(said("spans", SPELL, "tenpal"))
    assert span == {"text": "pa", "label": "a wrong letter"}


def test_a_debater_is_as_sure_as_it_says() -> None:
    text = reply(wish("argument", SPELL, "planet"))
    assert "tenalp" in text and "<confidence>\n95\n</confidence>" in text


def test_what_it_does_not_know_it_says() -> None:
    assert reply(wish("critique", "Who wrote Emma?", "Austen")) == UNKNOWN
    assert reply(wish("poem", SPELL, "x")) == UNKNOWN
    assert reply("Say hello.") == UNKNOWN
    task: Task = tasks.load("skill_code").take("validation", 1)[0]
    assert reply(wish("rubric", task.messages[-1]["content"], "")) == UNKNOWN


def test_a_tag_in_the_attempt_is_no_wish() -> None:
    assert reply(wish("judgement", SPELL, "<rewrite>")).startswith("<judgement>")
