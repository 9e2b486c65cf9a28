"""Routers: which of several teachers a rollout is for, by a data column, by rules, or by a teacher that is asked.

    opd with a specialist for each domain:
    preceptor runs start opd --set 'contexts.teacher.router={"kind": "column", "domains": ["maths", "law"]}'

A router stands in any context, in place of its `teacher`. What it chooses are roles; the run says who fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from preceptor.texts import filled, tagged
from preceptor_trainer.parts.contexts import question
from preceptor_trainer.router import Router, Unrouted
from preceptor_trainer.views import Ask, ContextView, Message

QUESTION = "question"
"""The last user message, where a rule looks at it and not at a column."""
LONGEST = 4000
"""Characters of a text that a pattern is held against."""


class ByColumn(Router, kind="column"):
    """By what a column of the data says: the role is called as the value is. A row that says nothing has no teacher."""

    column: str = Field(default="domain", min_length=1)
    """The data's column."""
    domains: tuple[str, ...] = Field(min_length=1)
    """Its values with a teacher of their own, whose role is called so."""
    otherwise: str | None = None
    """The role for all other values; None: there is none for them, and a run on such data is refused."""
    silent: tuple[str, ...] = ()
    """Values about which nobody is asked."""

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        if twice := _twice((*self.domains, *self.silent)):
            raise ValueError(f"domains, silent: {twice!r} is named twice")
        if self.otherwise is not None and self.silent:
            raise ValueError("silent: all other values have a teacher (otherwise); leave one of the two out")
        return self

    @property
    def experts(self) -> tuple[str, ...]:
        return _distinct(*self.domains, self.otherwise)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def unheard(self, column: str, value: str) -> bool:
        return column == self.column and self._role(value) is None and value not in self.silent

    def choose(self, view: ContextView) -> str | None:
        value = view.task.columns.get(self.column)
        if value is None or value == "" or str(value) in self.silent:
            return None
        if (role := self._role(str(value))) is None:
            raise Unrouted(
                f"the column '{self.column}' says {str(value)[:100]!r}, and the run has no teacher for it; it has "
                f"{', '.join(self.domains)}.",
                field=f"data.columns.{self.column}",
                remedy="Name a role for it (domains), one for all others (otherwise), or say that nobody is asked "
                "about it (silent).",
            )
        return role

    def _role(self, value: str) -> str | None:
        return value if value in self.domains else self.otherwise


class Rule(BaseModel):
    """One teacher, and the rows that are for it. Case does not matter."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    teacher: str = Field(min_length=1)
    """The role."""
    of: str = Field(default=QUESTION, min_length=1)
    """What is looked at: a column of the data, or `question`, the last user message."""
    equals: str | None = None
    """What it says, whole."""
    like: str | None = Field(default=None, max_length=200)
    """A pattern that it has, whole: `*` stands for any text, `?` for any character, `[0-9]` for one of several."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.equals is None) == (self.like is None):
            raise ValueError(f"a rule for '{self.teacher}' says either what it `equals` or what it is `like`")
        return self

    def holds(self, text: str) -> bool:
        """Whether a text is as it says."""
        folded = text.casefold().strip()
        if self.equals is not None:
            return folded == self.equals.casefold().strip()
        return fnmatchcase(folded[:LONGEST], (self.like or "").casefold())


class ByRules(Router, kind="rules"):
    """By the first of several rules that holds. Where none does, nobody is asked unless `otherwise` says whom."""

    rules: tuple[Rule, ...] = Field(min_length=1)
    """In the order in which they are tried."""
    otherwise: str | None = None
    """The role where no rule holds; None: nobody is asked, which is counted."""

    @property
    def experts(self) -> tuple[str, ...]:
        return _distinct(*(rule.teacher for rule in self.rules), self.otherwise)

    @property
    def columns(self) -> tuple[str, ...]:
        return _distinct(*(rule.of for rule in self.rules if rule.of != QUESTION))

    def choose(self, view: ContextView) -> str | None:
        for rule in self.rules:
            held: Any = question(view.task) if rule.of == QUESTION else view.task.columns.get(rule.of)
            if held is not None and rule.holds(str(held)):
                return rule.teacher
        return self.otherwise


class ByClassifier(Router, kind="classifier"):
    """By what a text teacher says that a question is about: asked once a question, and read strictly. What is none of
    the domains, or has not the form that was asked for, is counted (`unreadable`) and the question has no teacher."""

    domains: tuple[str, ...] = Field(min_length=2)
    """What it may answer; the role that is asked for scores is called so."""
    classifier: str = Field(default="classifier", min_length=1)
    """The role that is asked for the word."""
    max_tokens: int = Field(default=64, ge=1, le=100_000)
    """Longest reply. One that is longer is cut off, and counts as unreadable."""
    ask_template: str = (
        "Which of these domains is the question of? {domains}\n\n<question>\n{question}\n</question>\n\n"
        "Reply with one of them between <domain> and </domain>."
    )
    """What it reads; it holds `{question}` once, and may hold `{domains}`."""

    @model_validator(mode="after")
    def _suits(self) -> Self:
        if self.ask_template.count("{question}") != 1:
            raise ValueError("ask_template: it must hold {question} exactly once")
        if twice := _twice(each.casefold() for each in self.domains):
            raise ValueError(f"domains: {twice!r} is named twice (case does not matter in a reply)")
        return self

    @property
    def experts(self) -> tuple[str, ...]:
        return self.domains

    @property
    def writers(self) -> tuple[str, ...]:
        return (self.classifier,)

    def asks(self, view: ContextView) -> Sequence[Ask]:
        if "domain" in view.replies:
            return ()
        pieces = {"question": question(view.task), "domains": ", ".join(self.domains)}
        message = Message(role="user", content=filled(self.ask_template, pieces))
        return (Ask(key="domain", teacher=self.classifier, messages=(message,), max_tokens=self.max_tokens),)

    def read(self, view: ContextView, key: str, reply: str) -> str:
        said = tagged(reply, "domain")
        found = [each for each in self.domains if each.casefold() == said.casefold()]
        if not found:
            raise ValueError(f"<domain> holds {said[:40]!r}, which is none of {', '.join(self.domains)}")
        return found[0]

    def choose(self, view: ContextView) -> str | None:
        return view.replies["domain"]


def _distinct(*names: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _twice(names: Any) -> str | None:
    seen = list(names)
    return next((name for at, name in enumerate(seen) if name in seen[:at]), None)
