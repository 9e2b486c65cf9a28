"""Which endpoint of a teacher a request goes to: the least loaded, unless another has read its contexts before.

The same context goes to the same endpoint, also from another process, so that prefix caches are shared: what nothing
else decides, a hash of context and address does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preceptor.errors import Invalid, TooLarge
from preceptor.limits import check_fits
from preceptor.replica import Replica
from preceptor.wire.score import ScoreRequest, context_hash
from preceptor.wire.teachers import Card

MUCH_BUSIER = 2.0
"""Requests like this one that may be ahead at the endpoint that remembers, and not at the least loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a request asks of the endpoint that it goes to."""

    tokens: int = 0
    """That it makes a teacher read."""
    contexts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Its contexts by hash, and their tokens."""
    version: int | None = None
    """The weights version that must answer; None: any."""
    pinned: bool = False
    """Whether it is the caller who wants that version, and no newer one."""
    request: ScoreRequest | None = None
    """None: not a score."""

    @classmethod
    def of(cls, request: ScoreRequest, *, pinned: bool, alone: bool) -> Want:
        """What a score request wants. `alone`: there is one endpoint, and nothing to choose."""
        contexts = {} if alone else {context_hash(ids): len(ids) for ids in request.contexts}
        version = request.weights_version
        return cls(tokens=request.tokens, contexts=contexts, version=version, pinned=pinned, request=request)


def choose(replicas: Sequence[Replica], want: Want) -> Replica:
    """The best of those that may be asked; there must be one."""
    if len(replicas) == 1:
        return replicas[0]
    least = min(replica.load for replica in replicas)
    near = [replica for replica in replicas if replica.load <= least + MUCH_BUSIER * want.tokens]
    key = next(iter(want.contexts), "")
    return max(near, key=lambda each: (each.remembered(want.contexts), -each.load, _lot(key, each.url) if key else ""))


def takes(card: Card, want: Want) -> bool:
    """Whether an endpoint of this card takes the request, which suits the teacher as such."""
    try:
        if want.request is not None:
            check_fits(want.request, card)
    except (Invalid, TooLarge):
        return False
    return True


def _lot(key: str, url: str) -> str:
    return hashlib.sha256(f"{key} {url}".encode()).hexdigest()
