"""How two students that teach each other are known to do, by domain: the ground on which one hears the other.

What is known is verified rollouts, the older the less. A success rate is a Beta distribution: a prior and what was
counted. "Reliably better" is a probability, not a difference of two means: with few rollouts nobody is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import lgamma
from typing import Any

import numpy as np

from preceptor.wire.pairs import Outcomes

STANDING = "standing"
"""What a part says that it reads, where it asks how the student and its peer do."""
WHOLE = "all"
"""The domain of tasks that name none."""
GRID = 2048
"""Points at which a Beta density is looked at. At 10,000 rollouts it still is some eight points wide."""

Prior = tuple[float, float]
"""Successes and failures that are thought to have been seen before any was."""


def domain_of(columns: Mapping[str, Any]) -> str:
    """What a task is about: the data's `domain`. A row that leaves it out, null or empty is of no domain: `WHOLE`."""
    said = columns.get("domain")
    return WHOLE if said is None or said == "" else str(said)


@dataclass(frozen=True, slots=True)
class Seen:
    """Verified rollouts, older ones counted less."""

    right: float = 0.0
    wrong: float = 0.0

    def rate(self, prior: Prior) -> float:
        """The estimated success rate: the mean of the Beta distribution."""
        return (self.right + prior[0]) / (self.right + self.wrong + prior[0] + prior[1])

    def then(self, more: Outcomes, memory: float) -> Seen:
        """With newer ones; after `memory` of those an older one counts half."""
        kept = 0.5 ** ((more.right + more.wrong) / memory)
        return Seen(self.right * kept + more.right, self.wrong * kept + more.wrong)


@dataclass(frozen=True, slots=True)
class Standing:
    """One domain."""

    own: Seen = Seen()
    """The student's, as it is now."""
    peer: Seen = Seen()
    """The peer's."""
    own_start: Seen = Seen()
    """The student's in the first step that had this domain."""
    peer_start: Seen = Seen()
    """The peer's."""
    taught: bool | None = None
    """Whether the pair names this domain among what the peer teaches; None: it names none."""
    teaches: bool | None = None
    """The same of what the student teaches."""

    def peer_is_better(self, prior: Prior, margin: float) -> float:
        """The probability that the peer's success rate is above the student's by more than `margin`; 0 in a domain that
        others are said to teach."""
        return 0.0 if self.taught is False else above(self.peer, self.own, prior, margin)

    def began_better(self, prior: Prior, margin: float) -> float:
        """The probability that the student began better than its peer: 1 or 0 where the pair says who teaches this."""
        if self.teaches is not None:
            return float(self.teaches)
        return above(self.own_start, self.peer_start, prior, margin)


@dataclass(slots=True)
class Standings:
    """All domains, as verified rollouts come in."""

    memory: float
    teaches: tuple[str, ...] = ()
    peer_teaches: tuple[str, ...] = ()
    _own: dict[str, tuple[Seen, Seen]] = field(default_factory=dict[str, tuple[Seen, Seen]])
    _peer: dict[str, tuple[Seen, Seen]] = field(default_factory=dict[str, tuple[Seen, Seen]])

    def own(self, outcomes: Mapping[str, Outcomes]) -> None:
        """The student's, of one step."""
        self._add(self._own, outcomes)

    def peer(self, outcomes: Mapping[str, Outcomes]) -> None:
        """The peer's."""
        self._add(self._peer, outcomes)

    def now(self) -> dict[str, Standing]:
        """By domain, as far as anything is known."""
        named = bool(self.teaches or self.peer_teaches)
        nothing = (Seen(), Seen())
        return {
            domain: Standing(
                own=self._own.get(domain, nothing)[1],
                peer=self._peer.get(domain, nothing)[1],
                own_start=self._own.get(domain, nothing)[0],
                peer_start=self._peer.get(domain, nothing)[0],
                taught=domain in self.peer_teaches if named else None,
                teaches=domain in self.teaches if named else None,
            )
            for domain in sorted({*self._own, *self._peer, *self.teaches, *self.peer_teaches})
        }

    def _add(self, held: dict[str, tuple[Seen, Seen]], outcomes: Mapping[str, Outcomes]) -> None:
        for domain, more in outcomes.items():
            if more.right + more.wrong:
                now = held.get(domain, (Seen(), Seen()))[1].then(more, self.memory)
                held[domain] = (held[domain][0] if domain in held else now, now)


@lru_cache(maxsize=4096)
def above(one: Seen, other: Seen, prior: Prior, margin: float = 0.0) -> float:
    """P(p > q + margin) of two success rates, p of `one` and q of `other`, each Beta distributed. By summing over a
    grid, which has no case to fall out of."""
    at = (np.arange(GRID) + 0.5) / GRID
    weights_p, weights_q = (_weights(each, prior, at) for each in (one, other))
    below = np.concatenate([[0.0], np.cumsum(weights_q)])
    # Of a q in p's own cell half lies below p.
    place = np.clip((at - margin) * GRID, 0.0, GRID)
    return float(np.sum(weights_p * np.interp(place, np.arange(GRID + 1), below)))


def _weights(seen: Seen, prior: Prior, at: np.ndarray) -> np.ndarray:
    a, b = seen.right + prior[0], seen.wrong + prior[1]
    logs = (a - 1) * np.log(at) + (b - 1) * np.log1p(-at) + (lgamma(a + b) - lgamma(a) - lgamma(b))
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()
