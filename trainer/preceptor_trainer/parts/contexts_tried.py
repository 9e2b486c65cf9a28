"""Contexts around what was tried: the verifier's feedback on an attempt, other attempts that succeeded or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from preceptor.texts import filled, without_thinking
from preceptor_trainer.parts.contexts import Shown, asked, corrupted, holds
from preceptor_trainer.recipe import GROUP, REWARD, SingleContext
from preceptor_trainer.views import ContextView, Message

ENDING = "\n\nCorrectly solve the original question."


class Feedback(Shown, kind="feedback"):
    """What the verifier said of this very attempt (SDPO, arXiv:2601.20802). No opinion where it said nothing."""

    placeholder: ClassVar[str] = "feedback"
    reads: ClassVar[frozenset[str]] = frozenset({REWARD})
    template: str = (
        "{question}\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}" + ENDING
    )
    """The text that replaces the last user message; it holds `{question}` and `{feedback}` once each."""

    def content(self, view: ContextView) -> str | None:
        return None if view.rollout.verdict is None else view.rollout.verdict.feedback


class PeerFailure(Shown, kind="peer_failure"):
    """Another rollout of the group that the verifier refused, never the scored one itself (arXiv:2605.12652)."""

    placeholder: ClassVar[str] = "peer"
    reads: ClassVar[frozenset[str]] = frozenset({GROUP, REWARD})
    template: str = "{question}\n\nIncorrect attempt, to be avoided:\n\n{peer}" + ENDING
    """The text that replaces the last user message; it holds `{question}` and `{peer}` once each."""

    def content(self, view: ContextView) -> str | None:
        return next(iter(peers(view, correct=False, most=1)), None)


class Reprompt(SingleContext, kind="reprompt"):
    """The question again with what is known by now: attempts of others that succeeded, some that failed, feedback on
    this one (SDPO, arXiv:2601.20802). Where there is nothing of it, no opinion.

    Which of several attempts are shown is drawn from the view's random numbers. With one success it is `peer_success`,
    word for word; with feedback alone `feedback`.
    """

    reveals: ClassVar[frozenset[str]] = frozenset({"answer"})
    reads: ClassVar[frozenset[str]] = frozenset({GROUP, REWARD})
    template: str = "{question}{tried}" + ENDING
    """The text that replaces the last user message; `{tried}` becomes the pieces below, in their order."""
    success_template: str = "\n\nCorrect solution:\n\n{peer}"
    """Around an attempt that succeeded."""
    failure_template: str = "\n\nIncorrect attempt, to be avoided:\n\n{peer}"
    """Around one that failed."""
    feedback_template: str = "\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}"
    """Around what the verifier said of this attempt."""
    successes: int = Field(default=1, ge=0)
    """Most attempts shown that succeeded, never the scored one itself."""
    failures: int = Field(default=0, ge=0)
    """Most shown that failed. Shown next to something else only: what to avoid says too little alone."""
    feedback: bool = True
    """Whether feedback is shown."""
    wrong: bool = False
    """The control arm: the same words around corrupted content."""

    @model_validator(mode="after")
    def _has_placeholders(self) -> Self:
        held = {"template": ("question", "tried"), "success_template": ("peer",)}
        held |= {"failure_template": ("peer",), "feedback_template": ("feedback",)}
        for field, names in held.items():
            holds(getattr(self, field), field, *names)
        return self

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        said = self._said(view)
        return asked(view.task, self.template, {"tried": said}) if said else None

    def _said(self, view: ContextView) -> str:
        good = [self._around(view, self.success_template, peer=peer) for peer in peers(view, True, self.successes)]
        told = view.rollout.verdict.feedback if self.feedback and view.rollout.verdict is not None else None
        told = self._around(view, self.feedback_template, feedback=told) if told else ""
        bad = peers(view, False, self.failures) if good or told else []
        return "".join([*good, *(self._around(view, self.failure_template, peer=peer) for peer in bad), told])

    def _around(self, view: ContextView, template: str, **pieces: str) -> str:
        return filled(
            template, {name: corrupted(text, view.rng) for name, text in pieces.items()} if self.wrong else pieces
        )


def peers(view: ContextView, correct: bool, most: int) -> list[str]:
    """Attempts of the others that the verifier found right, or wrong: at most so many, drawn from the view's random
    numbers, without their thinking."""
    others = [each for each in view.group if each.index != view.rollout.index and each.verdict is not None]
    texts = [without_thinking(each.text) for each in others if each.verdict and each.verdict.correct == correct]
    found = [text for text in texts if text]
    return view.rng.sample(found, min(most, len(found))) if found and most else []
