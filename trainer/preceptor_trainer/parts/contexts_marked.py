"""A context that speaks of a few spans of a rollout, which an annotator marks (TRACE, arXiv:2605.10194)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from preceptor.texts import filled, tagged
from preceptor_trainer.parts.contexts import asked, corrupted, question
from preceptor_trainer.recipe import REWARD, Context
from preceptor_trainer.views import Ask, ContextView, Message, Prompt


class Span(BaseModel):
    """What an annotator marks."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: Annotated[str, Field(min_length=1)]
    """Word for word from the rollout."""
    label: Annotated[str, Field(min_length=1, max_length=200)]
    """What kind of thing it is."""


SPANS = TypeAdapter(tuple[Span, ...])


class Marked(Context, kind="marked"):
    """The question with the labels of what was marked; the opinion weighs 0 elsewhere.

    Only right rollouts are marked, or only wrong ones. Spans are taken in the annotator's order up to a share of the
    rollout's characters; one beyond it is left out.
    """

    reads: ClassVar[frozenset[str]] = frozenset({REWARD})
    on: Literal["right", "wrong"]
    """Which rollouts."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Most of a rollout's characters that may be in spans."""
    until: int | None = Field(default=None, ge=1)
    """Last step in which anybody is asked; None: there is none."""
    writer: str = "annotator"
    """The role that marks."""
    max_tokens: int = Field(default=512, ge=1, le=100_000)
    """Longest reply. One that is longer is cut off, and counts as unreadable."""
    template: str = "{question}\n\nMind this in the answer: {label}"
    """The text that replaces the last user message; it holds `{question}` and `{label}` once each."""
    ask_template: str = (
        "Mark the few pieces of a student's answer that make it {verdict}.\n\n"
        "<question>\n{question}\n</question>\n\n<attempt>\n{attempt}\n</attempt>\n\n"
        'Reply with a JSON list of {"text": ..., "label": ...} between <spans> and </spans>: `text` word for word from '
        "the answer, `label` a few words on what kind of thing it is, without the right answer."
    )
    """What the annotator reads; it may hold `{question}`, `{attempt}` and `{verdict}` (right or wrong)."""
    wrong: bool = False
    """The control arm: show corrupted labels."""

    @model_validator(mode="after")
    def _has_placeholders(self) -> Self:
        for name in ("question", "label"):
            if self.template.count(f"{{{name}}}") != 1:
                raise ValueError(f"template: it must hold {{{name}}} exactly once")
        return self

    @property
    def writers(self) -> tuple[str, ...]:
        return (self.writer,)

    def asks(self, view: ContextView) -> Sequence[Ask]:
        verdict, closed = view.rollout.verdict, self.until is not None and view.step > self.until
        if closed or verdict is None or verdict.correct != (self.on == "right") or not view.rollout.text.strip():
            return ()
        if "spans" in view.replies:
            return ()
        pieces = {"question": question(view.task), "attempt": view.rollout.text, "verdict": self.on}
        messages = (Message(role="user", content=filled(self.ask_template, pieces)),)
        return (Ask(key="spans", teacher=self.writer, messages=messages, max_tokens=self.max_tokens),)

    def read(self, view: ContextView, key: str, reply: str) -> str:
        said = tagged(reply, key)
        for span in SPANS.validate_json(said):
            if span.text not in view.rollout.text:
                raise ValueError(f"{span.text[:80]!r} does not stand in the answer")
        return said

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        if "spans" not in view.replies:
            return ()
        text, room = view.rollout.text, self.share * len(view.rollout.text)
        taken: list[tuple[Span, int]] = []
        for span in SPANS.validate_json(view.replies["spans"]):
            if len(span.text) <= room:
                room -= len(span.text)
                taken.append((span, text.index(span.text)))
        if not taken:
            return ()
        labels = "; ".join(dict.fromkeys(span.label for span, _ in taken))
        shown = corrupted(labels, view.rng) if self.wrong else labels
        messages = asked(view.task, self.template, {"label": shown})
        return (Prompt(messages=messages, spans=tuple((at, at + len(span.text)) for span, at in taken)),)
