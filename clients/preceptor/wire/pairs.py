"""What two runs that teach each other agree on, and what passes between each of them and the control plane.

A version of a student's weights is a number that is given out once: `incarnation * INCARNATION + step`. The incarnation
is the fencing number of the lease that published it, so that a run which is taken up again at an older checkpoint never
gives other weights a number that was heard of before.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from preceptor.wire.common import Count, Name, Step, Wire
from preceptor.wire.teachers import Card, Hash, KeyEnv, Url

INCARNATION = 10_000_000
"""Versions that one lease can give out; a run has at most a million steps."""

Side = Literal["a", "b"]
"""The two of a pair."""

OnLag = Literal["wait", "go_on"]
"""What the faster side does at the bound. `wait`: until the other has come near enough. `go_on`: it learns from weights
that are older than the bound, which is counted."""

OnLoss = Literal["alone", "stop"]
"""What a side does when the other has given no sign of life for `patience` seconds. `alone`: goes on without it, until
it is back. `stop`: its run fails with a sentence, and can be resumed from its last checkpoint."""


def version_of(incarnation: int, step: int) -> int:
    """The number of the weights after a step."""
    return incarnation * INCARNATION + step


def step_of(version: int) -> int:
    """The step after which the weights of this version were so."""
    return version % INCARNATION


class PairPolicy(Wire):
    """What both sides of a pair keep to."""

    max_lag: int = Field(default=2, ge=0, le=10_000)
    """Steps by which the peer that is asked may be behind the student that asks."""
    on_lag: OnLag = "wait"
    """What the faster side does at that bound."""
    on_loss: OnLoss = "alone"
    """What a side does that hears nothing of the other any more."""
    patience: float = Field(default=120.0, ge=1, le=86_400, allow_inf_nan=False)
    """Seconds without a sign of life after which the other side is lost."""
    memory: float = Field(default=200.0, ge=1, le=1e9, allow_inf_nan=False)
    """Verified rollouts of a domain after which an older one counts half, where it is estimated who is better at it."""


class Outcomes(Wire):
    """Verified rollouts."""

    right: Count = 0
    """Those that the verifier found right."""
    wrong: Count = 0
    """The others."""


class Publication(Wire):
    """A version of a student's weights that was given out."""

    version: Count
    """Its number."""
    step: Step
    """The step after which the weights were so."""
    weights_hash: Hash
    """Their identity, as on the teacher's card."""
    outcomes: dict[str, Outcomes] = Field(default_factory=dict[str, Outcomes])
    """What came of the rollouts of that step, by domain."""


class PublicationReport(Wire):
    """A worker is about to have a version of its student answer."""

    fence: Count
    """The lease's fencing number."""
    publication: Publication
    """Which."""
    done: bool = False
    """Whether it is the last: the run has done all its steps, and only goes on answering."""


class PeerServing(Wire):
    """A worker says where the student that it trains answers."""

    fence: Count
    """The lease's fencing number."""
    url: Url
    """Where the other side's worker reaches it."""
    card: Card
    """What it says of itself."""


MOST_PUBLICATIONS = 1000
"""In one answer."""


class Published(Wire):
    """What is known of a run's student as a peer."""

    state: str
    """The run's state."""
    url: str | None
    """Where it answers; None: it never has."""
    key_env: KeyEnv | None
    """Environment variable that holds its key."""
    done: bool
    """Whether it has done all its steps: no further version follows, and it asks nothing any more."""
    publications: tuple[Publication, ...]
    """The versions that were asked for, in order; at most `MOST_PUBLICATIONS`."""


class PairGrant(Wire):
    """What a worker has to know of the pair that its run is a side of."""

    id: str
    """The pair's id."""
    side: Side
    """Which side this run is."""
    role: str
    """The role that the other side's student fills."""
    teacher: Name
    """What this run's student is registered as."""
    peer_run: str
    """The other side's run."""
    teaches: tuple[str, ...]
    """The domains in which this run's student is heard; none: wherever it is reliably better."""
    peer_teaches: tuple[str, ...]
    """The same of the other side's."""
    policy: PairPolicy
    """What both keep to."""


class PeerAnswers(Wire):
    """What one version of a peer gave in a step."""

    kind: Literal["score", "feedback"]
    """Scores of completions; or texts: feedback, and attempts of its own where a context judges it by those."""
    version: Count
    """The version that answered."""
    lag: int
    """Steps by which it was behind the student that asked; negative: ahead of it."""
    count: Count
    """Completions that it scored, or texts that it wrote."""
