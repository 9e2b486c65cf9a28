"""Co-distillation on the wire: two runs, each with its own data, recipe and worker, that teach each other."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from preceptor.wire.common import Count, Name, Step, Wire
from preceptor.wire.pairs import PairPolicy, PeerAnswers
from preceptor.wire.runs import RunCreate, RunState
from preceptor.wire.waiting import Waiting

PEER = "peer"
"""The role that the other side's student fills."""


class SideCreate(Wire):
    """One side of a pair."""

    run: RunCreate
    """Its run. Its role `peer` is left out: the other side's student fills it."""
    teaches: tuple[str, ...] = ()
    """The domains in which it is heard at all; none: wherever it is reliably better than the other."""


class CodistillationCreate(Wire):
    """A wish for two runs that teach each other."""

    name: Name | None = None
    """What to call the pair; None: a name is made up."""
    a: SideCreate
    """One side."""
    b: SideCreate
    """The other."""
    policy: PairPolicy = PairPolicy()
    """What both keep to."""


class CodistillationState(StrEnum):
    """Where a pair is in its life; what its two runs are in decides."""

    QUEUED = "queued"
    """No side has begun."""
    RUNNING = "running"
    """A side runs, or will."""
    STOPPED = "stopped"
    """Neither goes on by itself, and one can be resumed."""
    SUCCEEDED = "succeeded"
    """Both have done all their steps."""


class CodistillationSide(Wire):
    """One side of a pair, as it is now."""

    run: str
    """Its run's id."""
    name: str
    """Its run's name."""
    state: RunState
    """Its run's state."""
    step: Step
    """Steps recorded so far."""
    steps: Step
    """Steps that it has in all."""
    worker: str | None
    """Who trains it, or did last."""
    teacher: Name
    """What its student is registered as."""
    url: str | None
    """Where its student answers; None: it never has."""
    teaches: tuple[str, ...]
    """The domains in which it is heard; none: wherever it is reliably better."""
    version: Count | None
    """The last version that it published; None: none yet."""
    published: Count
    """How many it has published."""
    waits: Waiting | None = None
    """Where its run is queued: what it waits for."""


class Codistillation(Wire):
    """Two runs that teach each other."""

    id: str
    """Its id."""
    name: str
    """What people call it."""
    state: CodistillationState
    """Where it is in its life."""
    policy: PairPolicy
    """What both keep to."""
    a: CodistillationSide
    """One side."""
    b: CodistillationSide
    """The other."""
    created_at: datetime
    """When it was submitted."""


class DomainPoint(Wire):
    """A student on the held-out tasks of one domain, after a step."""

    step: Step
    """After which."""
    domain: str
    """Which; `all` where the data names none."""
    n: Count
    """Tasks asked."""
    correct: Count
    """Tasks answered right."""


class GateChange(Wire):
    """From this step on a side heard its peer in a domain, or no longer did."""

    step: Step
    """Since when."""
    domain: str
    """Where."""
    open: bool
    """Whether the peer is heard."""
    own: float
    """The side's own estimated success rate then."""
    peer: float
    """The peer's."""


class FeedbackGiven(Wire):
    """What a peer's feedback came to in one domain, all steps together."""

    domain: str
    """Which."""
    rollouts: Count
    """Attempts that the side's teacher read its peer's feedback on: what was off the question, or said nothing but its
    answer, is not among them."""
    sentences_cut: Count = 0
    """Sentences of feedback, on these attempts or others, that nobody read because they say the answer."""


class SideRecord(Wire):
    """What came of one side."""

    run: str
    """Its run's id."""
    name: str
    """Its run's name."""
    accuracy: tuple[DomainPoint, ...]
    """Its student on held-out tasks, by domain, in order of step."""
    gates: tuple[GateChange, ...]
    """When it began to hear its peer, and ceased to."""
    heard: tuple[PeerAnswers, ...]
    """What its peer gave it, by kind, version and lag, summed over steps."""
    feedback: tuple[FeedbackGiven, ...] = ()
    """Where its peer's feedback was shown, by domain; none where its recipe asks for none."""
    unreadable: Count = 0
    """Attempts on which what the peer wrote could not be used: without the form that was asked for, off the question,
    nothing but its answer, or cut off."""
    unwritten: Count = 0
    """Texts that its peer was asked for and did not give."""
    largest_lag: int | None
    """Of those, the largest; None: it heard nothing."""
    alone: tuple[Step, ...]
    """Steps that it went without its peer because that could not be had."""
    waited_seconds: float
    """Seconds that it waited for its peer, all steps together."""
    unpublished: tuple[Count, ...]
    """Versions that answered it and that its peer never published. There are none, or something is wrong."""


class Record(Wire):
    """One pair, one record; or a page of it: what so many steps of either side came to."""

    id: str
    """The pair's id."""
    a: SideRecord
    """One side's."""
    b: SideRecord
    """The other's."""
    next_cursor: str | None = None
    """Pass it as `cursor` to get the steps after these. None: there are no more."""
