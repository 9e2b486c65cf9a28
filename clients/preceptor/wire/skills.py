"""Skill banks on the wire: named, versioned collections of skill-mistake pairs, with measured usefulness."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from preceptor.wire.common import Count, Name, Wire


class SkillBankCreate(Wire):
    """A wish for a skill bank."""

    name: Name
    """Its name."""
    description: str = Field(default="", max_length=2000)
    """What it is about."""


class SkillBank(Wire):
    """A skill bank. Adding skills makes a new version; old versions stay readable."""

    name: str
    """Its name."""
    description: str
    """What it is about."""
    version: Count
    """The latest version; 0 is the empty bank."""
    skills: Count
    """How many skills the latest version holds."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When the latest version was made."""


class SkillCreate(Wire):
    """A skill to be added."""

    skill: str = Field(min_length=1, max_length=20_000)
    """What to do: the advice a teacher is shown."""
    mistake: str = Field(default="", max_length=20_000)
    """What went wrong without it."""
    task: str | None = Field(default=None, max_length=200)
    """The task, or the kind of task, that it was learned from."""
    tags: tuple[Name, ...] = Field(default=(), max_length=32)
    """Words to find it by."""


class SkillsAdd(Wire):
    """Skills to be added together: one new version of the bank."""

    skills: tuple[SkillCreate, ...] = Field(min_length=1, max_length=1000)
    """The new skills."""


class Usefulness(Wire):
    """What showing a skill was measured to be worth."""

    shown: Count = 0
    """How often a teacher was shown it."""
    gain: float | None = Field(default=None, allow_inf_nan=False)
    """Mean change of the reward where it was shown; None: never measured."""


class Skill(Wire):
    """A skill-mistake pair in a bank."""

    id: str
    """Its id."""
    bank: str
    """The bank it is in."""
    version: Count
    """The version of the bank that brought it."""
    skill: str
    """What to do."""
    mistake: str
    """What went wrong without it."""
    task: str | None = None
    """What it was learned from."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""
    usefulness: Usefulness = Usefulness()
    """What it was measured to be worth."""
    created_at: datetime
    """When it was added."""


class SkillHit(Wire):
    """A skill that a search found."""

    skill: Skill
    """The skill."""
    score: float
    """How well its words match: BM25 over the version searched. Higher is better; only the order has a meaning."""
