"""Skill banks on the wire: named, versioned collections of skill-mistake pairs, with measured usefulness.

A version of a bank never changes. What is published makes the next one; what was measured of a skill is kept beside
the versions, and grows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from preceptor.wire.common import STEP_LIMIT, Count, Name, Step, Wire

BankVersion = Annotated[int, Field(ge=0, le=STEP_LIMIT)]
"""A version of a bank; 0 is the empty one."""
Number = Annotated[int, Field(ge=1, le=STEP_LIMIT)]
"""A skill's number within its bank; none is given twice."""
PinnedBank = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[0-9]{1,9})?$")]
"""`bank@3`, or `bank` for its latest version."""
Text = Annotated[str, Field(max_length=20_000)]


class SkillBankCreate(Wire):
    """A wish for a skill bank."""

    name: Name
    """Its name."""
    description: str = Field(default="", max_length=2000)
    """What it is about."""
    task: Name | None = None
    """The task that its skills are of: runs on another one are refused. None: of any."""
    embedder: Name = "ngrams-1"
    """What makes vectors of its skills. The default needs no download."""
    duplicate_above: float | None = Field(default=0.95, gt=0, le=1)
    """A new skill this similar (cosine) to one of the bank is folded into it; None: none ever is."""
    cap: int | None = Field(default=None, ge=1, le=1_000_000)
    """The most skills a version holds: beyond it, the least useful are left out. None: no limit."""


class SkillBank(Wire):
    """A skill bank. What is published makes a new version; old versions stay readable."""

    name: str
    """Its name."""
    description: str
    """What it is about."""
    task: str | None = None
    """The task that its skills are of; None: of any."""
    embedder: str
    """What makes vectors of its skills."""
    duplicate_above: float | None
    """From which cosine on a new skill is folded into one that is there; None: never."""
    cap: int | None
    """The most skills a version holds; None: no limit."""
    version: Count
    """The latest version; 0 is the empty bank."""
    skills: Count
    """How many skills the latest version holds."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When the latest version was made."""


class SkillSource(Wire):
    """Where a skill was learned."""

    run: str | None = Field(default=None, max_length=100)
    """The run."""
    step: Step | None = None
    """Its step."""
    rollout: str | None = Field(default=None, max_length=200)
    """The rollout, as the run names it."""
    task: str | None = Field(default=None, max_length=200)
    """The task that was tried."""


class SkillCreate(Wire):
    """A skill to be published: a skill, a mistake, or both."""

    skill: Text = ""
    """What to do: the advice a teacher is shown."""
    mistake: Text = ""
    """What went wrong without it."""
    task: str | None = Field(default=None, max_length=200)
    """The task, or the kind of task, that it is for."""
    tags: tuple[Name, ...] = Field(default=(), max_length=32)
    """Words to find it by."""
    sources: tuple[SkillSource, ...] = Field(default=(), max_length=100)
    """Where it was learned."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.skill.strip() and not self.mistake.strip():
            raise ValueError("a skill needs a `skill` or a `mistake`; both are empty")
        return self


class SkillsAdd(Wire):
    """Skills to be added together, as they are: one new version of the bank."""

    skills: tuple[SkillCreate, ...] = Field(min_length=1, max_length=1000)
    """The new skills."""


class SkillsPublish(Wire):
    """The next version of a bank, as changes to a version that was read."""

    base: BankVersion
    """The version that was read."""
    add: tuple[SkillCreate, ...] = Field(default=(), max_length=1000)
    """New skills. One that says what is there already is folded into that, and is another source of it."""
    remove: tuple[Number, ...] = Field(default=(), max_length=1000)
    """Numbers of skills of the base to be left out."""
    on_conflict: Literal["merge", "refuse"] = "merge"
    """When the bank has moved on from the base. `merge`: the changes are made to its latest version, where a skill that
    somebody else has folded something into since is not removed. `refuse`: 409, and nothing is changed."""
    run: str | None = Field(default=None, max_length=100)
    """The run that publishes. Its second request for the same step gets the first one's answer."""
    step: Step | None = None
    """Its step."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.run is None) != (self.step is None):
            raise ValueError("run and step name who publishes together; one is missing")
        return self


class FoldedSkill(Wire):
    """What a new skill was folded into."""

    index: Count
    """Which of the new ones."""
    into: Number
    """The skill that says it already."""


class SkillBankVersion(Wire):
    """One version of a bank, and how it came to be."""

    bank: str
    """The bank."""
    version: BankVersion
    """The version."""
    base: BankVersion | None = None
    """The version that its author had read; None: it was added to whatever was the latest."""
    skills: Count
    """How many skills it holds."""
    added: tuple[Number, ...] = ()
    """The skills that it brought."""
    folded: tuple[FoldedSkill, ...] = ()
    """Those that said what was there already."""
    removed: tuple[Number, ...] = ()
    """The skills that it left out on request."""
    evicted: tuple[Number, ...] = ()
    """The skills that it left out for their usefulness: harmful ones, and those beyond the bank's cap."""
    kept: tuple[Number, ...] = ()
    """Skills that stayed although they were to be removed, since they changed after the base."""
    run: str | None = None
    """The run that published it."""
    step: Step | None = None
    """Its step."""
    created_at: datetime
    """When it was made."""


class Moments(Wire):
    """Sums over numbers: how many, their sum, the sum of their squares."""

    n: Count = 0
    """How many."""
    total: float = Field(default=0.0, allow_inf_nan=False)
    """Their sum."""
    squares: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The sum of their squares."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.n == 0 and (self.total or self.squares):
            raise ValueError("n is 0, but the sums are not")
        if self.n and self.squares * self.n < self.total**2 * (1 - 1e-6):
            raise ValueError(f"no {self.n} numbers have the sum {self.total:g} and the squares' sum {self.squares:g}")
        return self


class SkillUse(Wire):
    """What came of one skill in one step of a run."""

    number: Number
    """The skill."""
    used: Count = 0
    """How many rollouts a teacher scored that was shown it."""
    shown: Count = 0
    """Rollouts that the student wrote with the skill in sight."""
    shown_right: Count = 0
    """How many of these the verifier accepted."""
    plain: Count = 0
    """Rollouts of the same tasks without it."""
    plain_right: Count = 0
    """How many of these the verifier accepted."""
    support_right: Moments = Moments()
    """The teacher's support (nats) of right rollouts: the mean over a rollout's tokens of teacher minus student."""
    support_wrong: Moments = Moments()
    """The same of wrong ones."""

    @model_validator(mode="after")
    def _counts(self) -> Self:
        for part, whole in (("shown_right", "shown"), ("plain_right", "plain")):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(f"{part} ({getattr(self, part)}) is more than {whole} ({getattr(self, whole)})")
        return self


class SkillUses(Wire):
    """What came of skills in one step of a run. Sent again, it is not counted again."""

    run: str = Field(min_length=1, max_length=100)
    """The run."""
    step: Step
    """Its step."""
    uses: tuple[SkillUse, ...] = Field(min_length=1, max_length=10_000)
    """One entry a skill."""


class UsesRecorded(Wire):
    """How many uses were new."""

    recorded: Count
    """Those that were not there yet."""


class Lift(Wire):
    """A difference that was measured, and its 95% interval."""

    mean: float
    """The difference."""
    low: float
    """Where the interval begins."""
    high: float
    """Where it ends."""
    n: Count
    """How many rollouts it was measured on."""


class Usefulness(Wire):
    """What a skill was measured to be worth."""

    used: Count = 0
    """How many rollouts a teacher scored that was shown it."""
    outcome: Lift | None = None
    """How much oftener rollouts are right with it in sight than without; None: never measured."""
    support: Lift | None = None
    """How much more a teacher that was shown it supports right rollouts than wrong ones, in nats; None: measured on too
    few."""


class Skill(Wire):
    """A skill-mistake pair in a bank."""

    id: str
    """Its id: `bank/number`."""
    bank: str
    """The bank it is in."""
    number: Number
    """Its number there."""
    version: Count
    """The version of the bank that brought it."""
    gone: Count | None = None
    """The version that left it out; None: the latest still holds it."""
    skill: str
    """What to do."""
    mistake: str
    """What went wrong without it."""
    task: str | None = None
    """What it is for."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""
    sources: tuple[SkillSource, ...] = ()
    """Where it was learned, as of the version that was asked for."""
    usefulness: Usefulness = Usefulness()
    """What it was measured to be worth so far."""
    created_at: datetime
    """When it was added."""


class SkillHit(Wire):
    """A skill that a search found."""

    skill: Skill
    """The skill."""
    score: float
    """Fused from the ranks in both lists. Higher is better; only the order has a meaning."""
    lexical: float
    """How well its words match: BM25 over the version searched."""
    similarity: float
    """Cosine of its vector and the query's."""
