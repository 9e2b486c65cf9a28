"""A context that listens to a peer: another student, or any teacher that writes (OPCoD, arXiv:2606.14368)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from preceptor.texts import filled, tagged
from preceptor_trainer.parts.contexts import corrupted, holds, question
from preceptor_trainer.parts.contexts_tried import Reprompt
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import Ask, ContextView, Message, Task

QUESTION = "<question>\n{question}\n</question>\n\n"


class Tutored(Reprompt, kind="tutored"):
    """`reprompt`, and what a peer that can do it says of this attempt."""

    columns: ClassVar[tuple[str, ...]] = ("answer",)
    feedback: bool = False
    """Whether the verifier's feedback is shown, too."""
    peer: str | None = "peer"
    """Who is asked; None: nobody, the gate is closed."""
    kappa: float = Field(default=0.5, ge=0, le=1)
    """Success rate from which on the peer is heard."""
    attempts: int = Field(default=1, ge=1, le=16)
    """The peer's own, by which it is judged; one is its likeliest, of several all are drawn."""
    max_tokens: int = Field(default=512, ge=1, le=100_000)
    """Its longest reply. One that is longer is cut off: an attempt fails then, and feedback counts as unreadable."""
    attempt_template: str = QUESTION + "Reply with your solution between <solution> and </solution>."
    """What the peer reads to answer by itself."""
    ask_template: str = (
        QUESTION + "A student answered:\n<attempt>\n{attempt}\n</attempt>\n\nTell the student what is wrong, and not "
        "the answer. Reply with your feedback between <feedback> and </feedback>."
    )
    """What it reads to give feedback."""
    peer_template: str = "\n\nFeedback of a peer on your earlier attempt:\n\n{feedback}"
    """Around what it said."""

    @model_validator(mode="after")
    def _tells_the_peer(self) -> Self:
        holds(self.attempt_template, "attempt_template", "question")
        holds(self.ask_template, "ask_template", "attempt")
        holds(self.peer_template, "peer_template", "feedback")
        return self

    @property
    def writers(self) -> tuple[str, ...]:
        return () if self.peer is None else (self.peer,)

    def asks(self, view: ContextView) -> Sequence[Ask]:
        if self.peer is None or "feedback" in view.replies:
            return ()
        tries = [f"attempt {number}" for number in range(self.attempts)]
        if tries[0] not in view.replies:
            warm = 1.0 if len(tries) > 1 else 0.0
            return [self._ask(view, key, self.attempt_template, warm) for key in tries]
        if sum(_same(view.replies[each], view.task) for each in tries) < self.kappa * self.attempts:
            return ()
        return [self._ask(view, "feedback", self.ask_template)]

    def _ask(self, view: ContextView, key: str, template: str, temperature: float = 0.0) -> Ask:
        assert self.peer is not None, "somebody is asked"
        pieces = {"question": question(view.task), "attempt": view.rollout.text.strip() or "(nothing)"}
        messages = (Message(role="user", content=filled(template, pieces)),)
        return Ask(key=key, teacher=self.peer, messages=messages, max_tokens=self.max_tokens, temperature=temperature)

    def read(self, view: ContextView, key: str, reply: str) -> str:
        if key != "feedback":
            return reply
        if kept := anchored(tagged(reply, "feedback"), view.task):
            return kept
        raise ValueError("nothing of the feedback is about the question without saying its answer")

    def redacted(self, view: ContextView, reply: str) -> int:
        """Sentences of a reply's feedback that say the answer, and are left out."""
        try:
            return sum(says for _, says in _sentences(tagged(reply, "feedback"), view.task))
        except ValueError:
            return 0  # it has no feedback, and is counted for that

    def missed(self, view: ContextView, key: str, why: str) -> str:
        return ""  # the gate is closed: an attempt that is not there is none that succeeded

    def _said(self, view: ContextView) -> str:
        told = view.replies.get("feedback", "")
        told = corrupted(told, view.rng) if told and self.wrong else told
        return super()._said(view) + (filled(self.peer_template, {"feedback": told}) if told else "")


def anchored(feedback: str, task: Task) -> str:
    """The sentences and lines that do not say the answer, if they have a word of the question in common with it; else
    nothing."""
    kept = "".join(each for each, says in _sentences(feedback, task) if not says).strip()
    asked, said = ({word.casefold() for word in re.findall(r"[^\W\d_]{4,}", text)} for text in (question(task), kept))
    return kept if asked & said else ""


def _sentences(feedback: str, task: Task) -> list[tuple[str, bool]]:
    """Its sentences and lines, and whether each says the answer."""
    answer = re.compile(rf"(?<!\w){re.escape((task.answer or '').strip())}(?!\w)", re.IGNORECASE)
    parts = re.findall(r".+?(?:[.!?]\s+|\n+|$)", feedback, re.DOTALL)
    return [(each, answer.search(each) is not None) for each in parts]


def _same(reply: str, task: Task) -> bool:
    solution = re.sub(r".*<solution>|</solution>.*", "", reply, flags=re.DOTALL)
    return final_answer(solution).casefold() == (task.answer or "").strip().casefold()
