"""The standard contexts: what a teacher is shown before the student's own tokens.

A template is the text that stands in place of the last user message: `{question}` is that message, the other
placeholder is what this context shows. `wrong=True` is the control arm of an experiment: the same template around
corrupted content. A method that gains from it, too, is not learning from what the context says.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import exp
from random import Random
from typing import Any, ClassVar, Self, cast

from pydantic import Field, model_validator

from preceptor.texts import filled
from preceptor_trainer.recipe import GROUP, REWARD, Context, SingleContext
from preceptor_trainer.views import ContextView, Message, Prompt, Task


class Plain(SingleContext, kind="plain"):
    """The student's own prompt: for teachers that know more than the student does, and for the no-context control."""

    def messages(self, view: ContextView) -> Sequence[Message]:
        return view.task.messages


class Instruction(SingleContext, kind="instruction"):
    """The question with an instruction, which says how to answer and nothing about the answer (CRISP,
    arXiv:2603.05433)."""

    template: str
    """The text that replaces the last user message; it holds `{question}` once."""

    @model_validator(mode="after")
    def _has_the_question(self) -> Self:
        holds(self.template, "template", "question")
        return self

    def messages(self, view: ContextView) -> Sequence[Message]:
        return asked(view.task, self.template, {})


class Shown(SingleContext):
    """A context that shows one piece of text through a template. A task that lacks the text gives no opinion."""

    placeholder: ClassVar[str]
    """The name that stands in the template for the content."""
    also: ClassVar[tuple[str, ...]] = ()
    """Task fields that the template may hold as well, once each."""
    template: str
    """The text that replaces the last user message; it holds `{question}` and the content's placeholder once each."""
    wrong: bool = False
    """The control arm: show corrupted content (drawn from the view's own random numbers, so the same on resume)."""

    @model_validator(mode="after")
    def _has_placeholders(self) -> Self:
        holds(self.template, "template", "question", self.placeholder)
        if twice := [name for name in self.also if self.template.count(f"{{{name}}}") > 1]:
            raise ValueError(f"template: it must hold {{{twice[0]}}} once, or not at all")
        return self

    @abstractmethod
    def content(self, view: ContextView) -> str | None:
        """What to show, or None when there is nothing."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        shown = {name: _field(view.task, name) for name in self.also if f"{{{name}}}" in self.template}
        shown[self.placeholder] = self.content(view)
        pieces = {name: text for name, text in shown.items() if text}
        if len(pieces) < len(shown):
            return None
        if self.wrong:
            pieces = {name: corrupted(text, view.rng) for name, text in pieces.items()}
        return asked(view.task, self.template, pieces)


class Reference(Shown, kind="reference"):
    """A worked solution of this very question (OPSD, arXiv 2601.18734)."""

    placeholder: ClassVar[str] = "reference"
    columns: ClassVar[tuple[str, ...]] = ("reference",)
    reveals: ClassVar[frozenset[str]] = frozenset({"answer", "reference"})
    template: str = (
        "{question}\n\nHere is a reference solution to this problem:\n{reference}\n\n"
        "After understanding the reference solution, now solve the problem in your own words."
    )
    """The text that replaces the last user message; it holds `{question}` and `{reference}` once each."""

    def content(self, view: ContextView) -> str | None:
        return view.task.reference


class Answer(Shown, kind="answer"):
    """The gold final answer, without a way to it (RLSD, arXiv:2604.03128, and CEPO, arXiv:2605.19436)."""

    placeholder: ClassVar[str] = "answer"
    columns: ClassVar[tuple[str, ...]] = ("answer",)
    reveals: ClassVar[frozenset[str]] = frozenset({"answer"})
    template: str = "{question}\n\nThe answer is: {answer}\n\nNow solve the problem."
    """The text that replaces the last user message; it holds `{question}` and `{answer}` once each."""

    def content(self, view: ContextView) -> str | None:
        return view.task.answer


class Demonstration(Shown, kind="demonstration"):
    """An example reply to the question (SDFT, arXiv 2601.19897)."""

    placeholder: ClassVar[str] = "demonstration"
    columns: ClassVar[tuple[str, ...]] = ("demonstration",)
    reveals: ClassVar[frozenset[str]] = frozenset({"answer", "reference"})
    template: str = (
        "{question}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
        "Now answer with a response of your own."
    )
    """The text that replaces the last user message; it holds `{question}` and `{demonstration}` once each."""

    def content(self, view: ContextView) -> str | None:
        return _field(view.task, "demonstration")


class Hint(Shown, kind="hint"):
    """A nudge: less than a solution."""

    placeholder: ClassVar[str] = "hint"
    columns: ClassVar[tuple[str, ...]] = ("hint",)
    reveals: ClassVar[frozenset[str]] = frozenset({"answer", "reference"})
    template: str = "{question}\n\nHere is a hint:\n{hint}\n\nUse the hint to solve the problem."
    """The text that replaces the last user message; it holds `{question}` and `{hint}` once each."""

    def content(self, view: ContextView) -> str | None:
        return _field(view.task, "hint")


class Skill(Shown, kind="skill"):
    """What to do with questions of this kind; less than a solution of this one (SGSD, arXiv:2605.28791)."""

    placeholder: ClassVar[str] = "skill"
    columns: ClassVar[tuple[str, ...]] = ("skill",)
    template: str = "{question}\n\nHere is a skill that helps:\n{skill}\n\nUse the skill to solve the problem."
    """The text that replaces the last user message; it holds `{question}` and `{skill}` once each."""

    def content(self, view: ContextView) -> str | None:
        found = _listed(view.task.columns.get("skill"))
        return str(found[0]) if found else None


class Skills(Context, kind="skills"):
    """A prompt, and an opinion, for each of several skills, next to the mistake that it avoids (SGSD).

    `skill` holds one or a list, the most fitting first; `mistake` what goes with each; `skill_score` how well each was
    found, the prompts' shares being the softmax (none: all alike).
    """

    columns: ClassVar[tuple[str, ...]] = ("skill",)
    pairs: int = Field(default=8, ge=1)
    """Most that are shown, the first ones."""
    template: str = (
        "{question}\n\nHere is a skill that helps:\n{skill}\n\nA mistake to avoid:\n{mistake}\n\n"
        "Use the skill to solve the problem."
    )
    """The text that replaces the last user message; it holds `{question}` once, and `{skill}`, `{mistake}` or both."""
    wrong: bool = False
    """The control arm: show corrupted skills."""

    @model_validator(mode="after")
    def _has_placeholders(self) -> Self:
        holds(self.template, "template", "question")
        if "{skill}" not in self.template and "{mistake}" not in self.template:
            raise ValueError("template: it must hold {skill} or {mistake}; it shows nothing else")
        return self

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        skills, mistakes, scores = (_listed(view.task.columns.get(n)) for n in ("skill", "mistake", "skill_score"))
        told = [corrupted(str(each), view.rng) if self.wrong else str(each) for each in skills[: self.pairs]]
        mistakes, scores = ([*given, *[""] * len(told)] for given in (mistakes, scores))
        share = [exp(float(score or 0)) for score in scores[: len(told)]]
        pieces = [{"skill": skill, "mistake": str(mistakes[k]) or "(none)"} for k, skill in enumerate(told)]
        shown = [asked(view.task, self.template, each) for each in pieces]
        return [Prompt(messages=each, weight=share[k] / sum(share)) for k, each in enumerate(shown)]


class Canonical(SingleContext, kind="canonical"):
    """All that a conversation came to say, as one message in its place (CCOPD, arXiv:2605.30251): the data's
    `canonical`."""

    columns: ClassVar[tuple[str, ...]] = ("canonical",)
    wrong: bool = False
    """The control arm: show corrupted content."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        content = _field(view.task, "canonical")
        if not content:
            return None
        system = [message for message in view.task.messages if message["role"] == "system"]
        return (*system, Message(role="user", content=corrupted(content, view.rng) if self.wrong else content))


class PeerSuccess(Shown, kind="peer_success"):
    """Another rollout of the group that the verifier accepted, never the scored one itself (SDPO, arXiv 2601.20802).

    No opinion where no other rollout succeeded. Which of several is drawn from the view's random numbers.
    """

    placeholder: ClassVar[str] = "peer"
    reveals: ClassVar[frozenset[str]] = frozenset({"answer"})
    reads: ClassVar[frozenset[str]] = frozenset({GROUP, REWARD})
    template: str = "{question}\n\nCorrect solution:\n\n{peer}\n\nCorrectly solve the original question."
    """The text that replaces the last user message; it holds `{question}` and `{peer}` once each."""

    def content(self, view: ContextView) -> str | None:
        others = [other for other in view.group if other.index != view.rollout.index]
        successes = [other.text for other in others if other.verdict is not None and other.verdict.correct]
        return view.rng.choice(successes) if successes else None


CALLED = r"[A-Za-z_]+(?=\()"


def holds(template: str, field: str, *names: str) -> None:
    """Raises ValueError, naming the field, where a template does not hold each of these placeholders once."""
    for name in names:
        if template.count(f"{{{name}}}") != 1:
            raise ValueError(f"{field}: it must hold {{{name}}} exactly once")


def corrupted(text: str, rng: Random) -> str:
    """The text with its content made wrong and its form kept.

    Where there are numbers, every digit becomes another one, and every letter of a name that is called (`f(7)`). Where
    there are none, every letter does, except in what a line says up to its last colon ("The answer is: "). Raises
    ValueError for a text with neither digit nor letter.
    """
    if any(char in string.digits for char in text):
        named = re.sub(CALLED, lambda name: _corrupted_line(name[0], rng), text)
        return "".join(_other(char, string.digits, rng) if char in string.digits else char for char in named)
    lines = [_corrupted_line(line, rng) for line in text.split("\n")]
    if (changed := "\n".join(lines)) == text:
        raise ValueError(f"{text!r} has neither a digit nor a letter that could be made wrong")
    return changed


def _corrupted_line(line: str, rng: Random) -> str:
    cut = line.rfind(":") + 1
    if not any(char.isalpha() for char in line[cut:]):
        cut = 0
    alphabets = [string.ascii_lowercase, string.ascii_uppercase]
    return line[:cut] + "".join(
        _other(char, alphabets[char.isupper()], rng) if char.isalpha() else char for char in line[cut:]
    )


def _other(char: str, alphabet: str, rng: Random) -> str:
    return rng.choice([each for each in alphabet if each != char])


def asked(task: Task, template: str, pieces: Mapping[str, str]) -> tuple[Message, ...]:
    """The task's messages with the template in place of the last user message, which is the `question`."""
    last = _asked(task)
    return _instead(task, last, filled(template, {**pieces, "question": task.messages[last]["content"]}))


def question(task: Task) -> str:
    """The last user message."""
    return task.messages[_asked(task)]["content"]


def _field(task: Task, name: str) -> str | None:
    """A task's answer, reference or column."""
    value: Any = getattr(task, name) if name in ("answer", "reference") else task.columns.get(name)
    return None if value is None else str(value)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(cast("Sequence[Any]", value)) if isinstance(value, list | tuple) else [value]


def _asked(task: Task) -> int:
    """Where the last user message is."""
    return max(index for index, message in enumerate(task.messages) if message["role"] == "user")


def _instead(task: Task, place: int, content: str) -> tuple[Message, ...]:
    """The task's messages with another user message in this place."""
    return (*task.messages[:place], Message(role="user", content=content), *task.messages[place + 1 :])
