"""Contexts around written texts: what the writer is asked, what of its reply is kept, what teachers are shown."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from preceptor.texts import tagged
from preceptor_trainer.parts.contexts_marked import Marked
from preceptor_trainer.parts.contexts_tutored import Tutored, anchored
from preceptor_trainer.parts.contexts_written import Critique, Rubric
from preceptor_trainer.recipe import Context
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

RIGHT, WRONG = Verdict(reward=1.0, correct=True), Verdict(reward=0.0, correct=False)
TASK = Task(
    id="one",
    messages=(Message(role="user", content="Which number is six times seven?"),),
    answer="42",
    reference="6*7=42",
)


def view(text: str = "it is 41", verdict: Verdict | None = WRONG, task: Task = TASK, **more: Any) -> ContextView:
    own = Rollout(index=0, text=text, verdict=verdict)
    held = {"task": task, "rollout": own, "group": (own,), "step": 1, "rng": Random(0)}
    return ContextView(**{**held, **more})


def answered(context: Context, replies: dict[str, str], **more: Any) -> ContextView:
    """The view once every ask had its reply, kept as the context keeps it."""
    kept: dict[str, str] = {}
    for _ in range(10):
        seen = view(**more, replies=dict(kept))
        asks = context.asks(seen)
        if not asks:
            return seen
        kept |= {ask.key: context.read(seen, ask.key, replies[ask.key]) for ask in asks}
    raise AssertionError("it never has enough")


def test_tags_are_read_strictly() -> None:
    assert tagged("<think><a>no</a></think>well <a> yes </a>.", "a") == "yes"
    for reply in ("", "yes", "<a></a>", "<a> </a>", "<a>1</a><a>2</a>", "<a>yes"):
        with pytest.raises(ValueError, match="<a>"):
            tagged(reply, "a")


def test_a_critic_reads_question_and_attempt_and_the_teacher_its_critique() -> None:
    part = Critique()
    (ask,) = part.asks(view())
    text = ask.messages[0]["content"]
    assert ask.teacher == "critic" and "it is 41" in text and "six times seven" in text and "6*7" not in text
    seen = answered(part, {"critique": "Hm. <critique>\nit is 42\n</critique>"})
    (prompt,) = part.prompts(seen)
    assert "it is 42" in prompt.messages[0]["content"] and part.prompts(view()) == ()
    (ask,) = part.model_copy(update={"ask_template": "{attempt} {reference}"}).asks(view())
    assert ask.messages[0]["content"] == "it is 41 6*7=42"


def test_an_attempt_of_no_words_is_one() -> None:
    (ask,) = Critique().asks(view(text=" "))
    assert "(nothing)" in ask.messages[0]["content"]


def test_a_rubric_comes_with_the_reference_or_not_at_all() -> None:
    part = Rubric()
    (prompt,) = part.prompts(answered(part, {"rubric": "<rubric>\nIs even.\n</rubric>"}))
    assert "6*7=42" in prompt.messages[0]["content"] and "Is even." in prompt.messages[0]["content"]
    bare = Task(id="x", messages=TASK.messages)
    assert part.asks(view(task=bare)) == () and part.prompts(view(task=bare, replies={"rubric": "Is even."})) == ()
    alone = Rubric(template="{question} {rubric}", ask_template="{question}")
    (prompt,) = alone.prompts(view(task=bare, replies={"rubric": "Is even."}))
    assert prompt.messages[0]["content"].endswith("seven? Is even.")


def test_a_text_that_the_data_brings_is_not_asked_for() -> None:
    task = Task(id="x", messages=TASK.messages, reference="r 1", columns={"rubric": "Given."})
    assert Rubric().asks(view(task=task)) == ()
    (prompt,) = Rubric(writer=None).prompts(view(task=task))
    assert "Given." in prompt.messages[0]["content"] and Rubric(writer=None).writers == ()


def test_the_control_arm_of_a_rubric_corrupts_the_reference_too() -> None:
    part = Rubric(wrong=True)
    (prompt,) = part.prompts(answered(part, {"rubric": "<rubric>2 digits</rubric>"}))
    text = prompt.messages[0]["content"]
    assert "6*7=42" not in text and "2 digits" not in text and " digits" in text


SPANS = [{"text": "it", "label": "a start"}, {"text": "is 41", "label": "a wrong sum"}]


def marked(spans: object) -> str:
    return f"<spans>{json.dumps(spans)}</spans>"


def test_marks_are_spans_of_the_rollout_within_a_share_of_it() -> None:
    part = Marked(on="wrong")
    (prompt,) = part.prompts(answered(part, {"spans": marked(SPANS)}))
    assert prompt.spans == ((0, 2),) and "a start" in prompt.messages[0]["content"]
    assert "wrong sum" not in prompt.messages[0]["content"], "what was left out is not told"
    (prompt,) = part.model_copy(update={"share": 1.0}).prompts(answered(part, {"spans": marked(SPANS)}))
    assert prompt.spans == ((0, 2), (3, 8)) and "a start; a wrong sum" in prompt.messages[0]["content"]
    assert part.prompts(answered(part, {"spans": marked([])})) == ()


@pytest.mark.parametrize(
    "spans", [[{"text": "42", "label": "x"}], [{"text": "it"}], {"text": "it"}, [{"text": "", "label": "x"}]]
)
def test_marks_are_read_strictly(spans: object) -> None:
    with pytest.raises(ValueError, match=r"does not stand|Field required|valid|at least"):
        Marked(on="wrong").read(view(), "spans", marked(spans))


def test_nobody_marks_after_the_end_or_what_is_not_to_be_marked() -> None:
    part = Marked(on="right", until=3)
    assert part.asks(view(verdict=RIGHT, step=3)) and not part.asks(view(verdict=RIGHT, step=4))
    assert not part.asks(view(verdict=WRONG)) and not part.asks(view(verdict=None)) and not part.asks(view("", RIGHT))


def test_a_peer_is_heard_where_it_can_do_it_itself() -> None:
    part = Tutored()
    told = {"attempt 0": "<solution>#### 42</solution>", "feedback": "<feedback>Think of the number again.</feedback>"}
    (prompt,) = part.prompts(answered(part, told))
    assert "Think of the number again." in prompt.messages[0]["content"]
    seen = answered(part, {**told, "attempt 0": "<solution>41</solution>"})
    assert "feedback" not in seen.replies and part.prompts(seen) == ()
    several = Tutored(attempts=4, kappa=0.75)
    tries = {f"attempt {n}": f"<solution>{42 if n < 3 else 7}</solution>" for n in range(4)}
    assert "feedback" in answered(several, told | tries).replies
    assert "feedback" not in answered(several.model_copy(update={"kappa": 1.0}), told | tries).replies
    assert {ask.temperature for ask in several.asks(view())} == {1.0}


def test_with_the_gate_closed_it_is_the_reprompt_without_feedback() -> None:
    closed = Tutored(peer=None)
    assert closed.writers == () and closed.asks(view()) == () and closed.prompts(view()) == ()


@pytest.mark.parametrize(
    ("feedback", "kept"),
    [
        ("Mind the number. It is 42. Try again!", "Mind the number. Try again!"),
        ("The number is 421.", "The number is 421."),
        ("Mind the number.\n- It is 42.\n- Six, seven times", "Mind the number.\n- Six, seven times"),
        ("It is 42.", ""),
        ("Lovely weather today.", ""),
    ],
)
def test_feedback_is_anchored_in_the_question_and_free_of_the_answer(feedback: str, kept: str) -> None:
    assert anchored(feedback, TASK) == kept
    reply = f"<feedback>{feedback}</feedback>"
    if kept:
        assert Tutored().read(view(), "feedback", reply) == kept
    else:
        with pytest.raises(ValueError, match="about the question without saying its answer"):
            Tutored().read(view(), "feedback", reply)
