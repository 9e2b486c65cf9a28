"""When a text teacher is asked for skills, what it reads, and how strictly it is read."""

from __future__ import annotations

import json

import pytest

from preceptor.wire.skills import SkillCreate
from preceptor_trainer.parts.skill_banks import SkillBank
from preceptor_trainer.views import Message, Rollout, Task, Verdict

HELD = SkillCreate(skill="Read the question.")


def tried(*rights: bool) -> list[tuple[Task, Rollout]]:
    return [
        (
            Task(id=f"t{index}", messages=(Message(role="user", content=f"Question {index}?"),), answer="gold"),
            Rollout(
                index=0,
                text=f"<think>hm</think>attempt {index}",
                verdict=Verdict(reward=float(right), correct=right, feedback=None if right else "Wrong digit."),
            ),
        )
        for index, right in enumerate(rights)
    ]


def line(skill: str = "Carry.", mistake: str = "Forgot.", attempt: object = 1, **more: object) -> str:
    return json.dumps({"skill": skill, "mistake": mistake, "attempt": attempt, **more})


def test_it_asks_every_so_many_steps_while_success_is_low():
    part = SkillBank(every=5, below=0.5)
    low, high = tried(False, False, True), tried(True, False, True, True)
    assert [step for step in range(1, 16) if part.asks(step, low)] == [5, 10, 15]
    assert part.asks(5, high) == () and part.asks(5, []) == () and part.asks(5, tried(True, True)) == ()
    assert SkillBank(every=5, below=1.0).asks(5, tried(True, True)) == (), (
        "where nothing failed there is nothing to learn"
    )
    nobody = [(task, Rollout(index=0, text="x")) for task, _ in low]
    assert part.asks(5, nobody) == (), "nobody judged them"


def test_failures_are_contrasted_with_successes_and_no_answer_is_told():
    (ask,) = SkillBank(every=1, attempts=1, most=3).asks(1, tried(True, False, False, True))
    text = ask.messages[0]["content"]
    assert ask.teacher == "extractor" and ask.key == "skills"
    assert "Attempt 1 (failed)\nTask: Question 1?\nAnswer: attempt 1\nWhat was said of it: Wrong digit." in text
    assert "Attempt 2 (succeeded)\nTask: Question 0?\nAnswer: attempt 0" in text
    assert "Question 2" not in text and "Attempt 3" not in text and "gold" not in text and "<think>" not in text
    assert "at most 3 lines" in text and '{"skill": "what to do"' in text


def test_new_skills_come_after_the_held_ones_with_where_they_were_learned():
    part, rollouts = SkillBank(most=2), tried(True, False)
    reply = line() + "\n\n" + line(skill="", mistake="Guessed.", attempt=2)
    held, first, second = part.update((HELD,), rollouts, {"skills": reply})
    assert held == HELD and (first.skill, first.mistake, second.mistake) == ("Carry.", "Forgot.", "Guessed.")
    assert first.sources[0].task == "t1" and first.sources[0].rollout == "t1/0", "attempt 1 is the first failure"
    assert second.sources[0].task == "t0"
    assert part.update((HELD,), rollouts, {"skills": ""}) == (HELD,), "nothing to say is no fault"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("Here are some skills:", "line 1 is not JSON"),
        ("```json\n" + line(), "line 1 is not JSON"),
        (line() + "\n[]", "line 2 is not an object"),
        (line(extra=1), "line 1 is not an object of skill, mistake and attempt"),
        (line(attempt=3), "names attempt 3 of 2"),
        (line(attempt=True), "names attempt True"),
        (line(attempt="1"), "names attempt '1'"),
        (json.dumps({"skill": 1, "mistake": "", "attempt": 1}), "must be text"),
        (line(skill=" ", mistake=""), "both are empty"),
        ("\n".join([line()] * 3), "3 skills, where 2 were wanted at most"),
    ],
)
def test_anything_else_is_not_read(reply: str, words: str):
    with pytest.raises(ValueError, match=words):
        SkillBank(most=2).update((), tried(True, False), {"skills": reply})


def test_a_template_without_the_attempts_is_refused():
    with pytest.raises(ValueError, match=r"it must hold \{attempts\} exactly once"):
        SkillBank(template="Say something.")
