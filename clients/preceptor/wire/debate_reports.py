"""What a worker takes and reports of debates: those that it holds by lease, and those that a run holds for itself."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from preceptor.wire.common import Count, Problem, Step, Wire
from preceptor.wire.debates import Debate, DebateCreate, DebateResult, DebateState, DebateTemplate, DebateTurn, Voice
from preceptor.wire.runs import TeacherEndpoint

MOST_HELD = 64
"""Debates in one report."""


class DebateGrant(Wire):
    """The right to hold a debate, until it expires."""

    debate: Debate
    """The debate, with the turns that are recorded: they are not asked for again."""
    fence: Count
    """The fencing number: every report carries it."""
    until: datetime
    """When the lease ends unless a heartbeat comes."""
    ttl_seconds: float
    """How long a heartbeat makes it last."""
    elapsed_seconds: float
    """Seconds since a worker first took it."""
    teachers: dict[str, TeacherEndpoint]
    """Whom to ask, by debater."""


class TurnsReport(Wire):
    """What was said since the last report. A turn that is recorded already is left as it is."""

    fence: Count
    """The lease's fencing number."""
    turns: tuple[DebateTurn, ...] = Field(max_length=64)
    """The turns."""


class DebateFinish(Wire):
    """The worker is done with the debate."""

    fence: Count
    """The lease's fencing number."""
    state: Literal[DebateState.SUCCEEDED, DebateState.FAILED, DebateState.CANCELLED]
    """How it ended."""
    error: Problem | None = None
    """Why it failed; needed when it did."""
    result: DebateResult | None = None
    """What came of it; needed when it succeeded."""


class RunWish(Wire):
    """A debate of a run, before anything is said."""

    wish: DebateCreate
    """What is debated, by whom and by which rules; the debaters have the names of roles."""
    template: DebateTemplate
    """The words, as the run's recipe has them."""
    voices: dict[str, Voice]
    """Who speaks, by debater."""


class HeldDebate(RunWish):
    """A debate that a run has held."""

    step: Step = Field(ge=1)
    """In which step."""
    context: str = Field(min_length=1, max_length=100)
    """For which context."""
    task: str = Field(min_length=1, max_length=100)
    """About which task."""
    rollout: Count
    """About which of the task's rollouts; where several share it, the first."""
    turns: tuple[DebateTurn, ...] = Field(default=(), max_length=64)
    """What was said."""
    cached_from: str | None = Field(default=None, max_length=40)
    """The debate that was taken in its stead, and has the turns; None: it was held."""


class KnownWish(Wire):
    """Which of these debates were held before?"""

    wishes: tuple[RunWish, ...] = Field(max_length=MOST_HELD)
    """The debates."""


class KnownDebate(Wire):
    """A debate that was held before, by whomever."""

    debate: str
    """Its id."""
    turns: tuple[DebateTurn, ...]
    """What was said."""


class HeldReport(Wire):
    """Debates that a run has held. One that is recorded already is left as it is."""

    fence: Count
    """The lease's fencing number."""
    debates: tuple[HeldDebate, ...] = Field(max_length=MOST_HELD)
    """The debates, of steps that are recorded."""
