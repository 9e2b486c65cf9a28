"""OPCoD: SDPO's loss around a peer's feedback; with the gate closed it is SDPO, and shows what that shows."""

from __future__ import annotations

from random import Random

from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

OPCOD, SDPO = recipes.load("opcod"), recipes.load("sdpo")
TASK = Task(id="t", messages=(Message(role="user", content="Multiply six and seven."),), answer="42")
GROUP = [
    Rollout(index=0, text="it is 41", verdict=Verdict(reward=0.0, correct=False)),
    Rollout(index=1, text="it is 42", verdict=Verdict(reward=1.0, correct=True)),
]


def shown(recipe: str, replies: dict[str, str], own: int = 0) -> list[str]:
    part = {"opcod": OPCOD.contexts["tutored"], "sdpo": SDPO.contexts["tried"]}[recipe]
    view = ContextView(task=TASK, rollout=GROUP[own], group=GROUP, step=1, rng=Random(0), replies=replies)
    return [prompt.messages[0]["content"] for prompt in part.prompts(view)]


def test_a_peer_that_fails_itself_is_not_heard_and_the_prompt_is_sdpo_s() -> None:
    part = OPCOD.contexts["tutored"]
    view = ContextView(
        task=TASK, rollout=GROUP[0], group=GROUP, step=1, rng=Random(0), replies={"attempt 0": "<solution>7</solution>"}
    )
    assert part.asks(view) == ()
    assert shown("opcod", dict(view.replies)) == shown("sdpo", {}) != []


def test_what_the_filter_leaves_nothing_of_is_the_closed_gate() -> None:
    assert shown("opcod", {"attempt 0": "42", "feedback": ""}) == shown("sdpo", {})


def test_an_open_gate_adds_the_feedback_and_never_the_answer() -> None:
    part = OPCOD.contexts["tutored"]
    view = ContextView(task=TASK, rollout=GROUP[1], group=GROUP, step=1, rng=Random(0), replies={"attempt 0": "42"})
    (ask,) = part.asks(view)
    assert ask.teacher == "peer" and ask.key == "feedback" and "it is 42" in ask.messages[0]["content"]
    kept = part.read(view, "feedback", "<feedback>You multiply well. It is 42.</feedback>")
    (text,) = shown("opcod", {"attempt 0": "42", "feedback": kept}, own=1)
    assert "You multiply well." in text and "42" not in text


def test_the_peer_writes_and_the_student_s_own_weights_score() -> None:
    assert OPCOD.writers == {"peer"} and OPCOD.scorers == {"self"}
    closed = OPCOD.override({"contexts": {"tutored": {"peer": None}}})
    assert closed.roles == {"self"}, "no second model anywhere: nothing could pass from one student to the other"
