"""Contexts around a text that somebody writes for them: a rubric, a critique.

A text teacher is asked, by the role that `writer` names; any chat endpoint can fill it. What it must answer with stands
between two tags, once: a reply that has none, or was cut off, is counted (`unreadable`) and the context has no opinion
then. A row whose data brings the text in a column of the same name is not asked about.

`template` is what the scoring teacher reads, `ask_template` what the writer reads. Both are fields; a hash of them is
recorded with every score (`Stamp.wording`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from preceptor.texts import filled, tagged
from preceptor_trainer.parts.contexts import Shown, question
from preceptor_trainer.views import Ask, ContextView, Message


class Written(Shown):
    """A piece of text that a writer is asked for, in a reply of one round."""

    writer: str | None
    """The role that is asked; None: nobody, the text is the data's."""
    ask_template: str
    """What the writer reads."""
    max_tokens: int = Field(default=512, ge=1, le=100_000)
    """Longest reply. One that is longer is cut off, and counts as unreadable."""

    @model_validator(mode="after")
    def _tells_the_writer(self) -> Self:
        if "{question}" not in self.ask_template and "{attempt}" not in self.ask_template:
            raise ValueError("ask_template: it must hold {question} or {attempt}; the writer is told nothing else")
        return self

    @property
    def writers(self) -> tuple[str, ...]:
        return () if self.writer is None else (self.writer,)

    @abstractmethod
    def told(self, view: ContextView) -> Mapping[str, str | None]:
        """What `ask_template` may hold, by name; None: the task lacks it."""

    def asks(self, view: ContextView) -> Sequence[Ask]:
        if self.writer is None or self.placeholder in view.replies or self._given(view) is not None:
            return ()
        held = {name: text for name, text in self.told(view).items() if f"{{{name}}}" in self.ask_template}
        pieces = {name: text for name, text in held.items() if text}
        if len(pieces) < len(held):
            return ()
        message = Message(role="user", content=filled(self.ask_template, pieces))
        return (Ask(key=self.placeholder, teacher=self.writer, messages=(message,), max_tokens=self.max_tokens),)

    def read(self, view: ContextView, key: str, reply: str) -> str:
        return tagged(reply, key)

    def content(self, view: ContextView) -> str | None:
        return self._given(view) or view.replies.get(self.placeholder)

    def _given(self, view: ContextView) -> str | None:
        text = view.task.columns.get(self.placeholder)
        return None if text is None else str(text)


class Rubric(Written, kind="rubric"):
    """A reference solution, and the points that a good answer meets (RCSD, arXiv:2606.19327)."""

    placeholder: ClassVar[str] = "rubric"
    also: ClassVar[tuple[str, ...]] = ("reference",)
    columns: ClassVar[tuple[str, ...]] = ("reference",)
    reveals: ClassVar[frozenset[str]] = frozenset({"answer", "reference"})
    writer: str | None = "rubric_writer"
    """The role that is asked; None: nobody, the rubric is the data's `rubric`."""
    template: str = (
        "{question}\n\nHere is a reference solution to this problem:\n{reference}\n\n"
        "A good answer meets these points:\n{rubric}\n\n"
        "Now solve the problem in your own words. Mention neither the solution nor these points."
    )
    """The text that replaces the last user message; it holds `{question}` and `{rubric}` once each, and perhaps
    `{reference}`."""
    ask_template: str = (
        "Write a rubric for answers to this question.\n\n<question>\n{question}\n</question>\n\n"
        "<reference>\n{reference}\n</reference>\n\n"
        "Reply with what a good answer does, one point a line, between <rubric> and </rubric>."
    )
    """What the writer reads; it may hold `{question}` and `{reference}`."""

    def told(self, view: ContextView) -> Mapping[str, str | None]:
        return {"question": question(view.task), "reference": view.task.reference}


class Critique(Written, kind="critique"):
    """This very attempt, right up to its first wrong step and rewritten from there (step-aligned critique,
    arXiv:2606.11173)."""

    placeholder: ClassVar[str] = "critique"
    reveals: ClassVar[frozenset[str]] = frozenset({"answer", "reference"})
    writer: str | None = "critic"
    """The role that is asked."""
    template: str = (
        "{question}\n\nAn attempt, corrected from its first wrong step:\n{critique}\n\nNow solve the problem."
    )
    """The text that replaces the last user message; it holds `{question}` and `{critique}` once each."""
    ask_template: str = (
        "A student answered a question, one step a line. Copy the steps word for word up to the first wrong one, and "
        "write the answer correctly from there. Where nothing is wrong, copy all of it.\n\n"
        "<question>\n{question}\n</question>\n\n<attempt>\n{attempt}\n</attempt>\n\n"
        "Reply with the corrected answer between <critique> and </critique>."
    )
    """What the critic reads; it may hold `{question}`, `{attempt}` and `{reference}`."""

    def told(self, view: ContextView) -> Mapping[str, str | None]:
        # An attempt of no words is one, too: its first wrong step is its first.
        attempt = view.rollout.text.strip() or "(nothing)"
        return {"question": question(view.task), "attempt": attempt, "reference": view.task.reference}

    def _given(self, view: ContextView) -> str | None:
        return None  # no row knows what the student will have written
