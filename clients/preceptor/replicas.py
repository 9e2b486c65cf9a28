"""The endpoints of one teacher: which there are, which may be asked now, and whether they are who they should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx

from preceptor.adapters import Endpoint
from preceptor.errors import Corrupt, Invalid, TeacherRefused
from preceptor.hedge import Latencies
from preceptor.replica import Open, Replica
from preceptor.routing import Want, choose, takes
from preceptor.same import check_same
from preceptor.tally import Tally
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.teachers import Card

LONG = 30.0
"""Seconds after which a call without an answer or a failure counts as one that hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the teachers of a pool share."""

    transport: httpx.BaseTransport | None = None
    deadline: float
    """Seconds that one attempt may take."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] | None = None
    """None: a pause ends early where the teacher is closed meanwhile."""
    stopping: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What became of a list of endpoints that a running job was given."""

    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """Sentences: why one could not join."""

    def __bool__(self) -> bool:
        return bool(self.joined or self.left or self.refused)


class Unbelieved(Exception):
    """What answers at an endpoint is not the teacher that it should be; another endpoint may be."""


class Moved(Exception):
    """The teacher has other weights than those that the request was begun with."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that has no answer yet."""

    began: float
    failed: bool = False
    """Somebody was asked, and has failed it."""


class Replicas:
    """Safe to share between threads."""

    def __init__(self, endpoint: TeacherEndpoint, open_: Open, tally: Tally, means: Means) -> None:
        """Raises what opening a client raises: Invalid where a URL is none, or a key is not set here."""
        self.endpoint = endpoint
        self.name = endpoint.name
        self.tally = tally
        self.means = means
        self.latencies = Latencies()
        self.card: Card | None = None
        """As some endpoint last said it; None: none was asked yet."""
        self.newest: int | None = None
        """The newest weights version that was seen."""
        self._closed = threading.Event()
        self._waiting: set[Waiting] = set()
        self.down = False
        """The last call was given up because nobody answered."""
        self._open = open_
        self._lock = threading.Lock()
        first = ReplicaAddress(url=endpoint.url, key_env=endpoint.key_env)
        self._replicas = [self._made(each) for each in _by_url((first, *endpoint.replicas)).values()]

    def __iter__(self) -> Iterator[Replica]:
        return iter(tuple(self._replicas))

    def __len__(self) -> int:
        return len(self._replicas)

    def update(self, addresses: Sequence[ReplicaAddress]) -> Changes:
        """From now on ask these. Requests that are with an endpoint that leaves finish there, or go on elsewhere.

        An empty list changes nothing: nobody to ask would be no better than somebody who may be back.
        """
        with self._lock:
            held = _by_url(self._replicas)
            wanted = _by_url(addresses)
            kept, joined, refused = list[Replica](), list[str](), list[str]()
            for url, address in wanted.items():
                if url in held:
                    kept.append(held[url])
                    continue
                try:
                    kept.append(self._made(address))
                    joined.append(url)
                except Invalid as error:
                    refused.append(f"{url}: {error}")
            if not kept:
                return Changes(refused=tuple(refused))
            left = [replica for url, replica in held.items() if url not in wanted]
            self._replicas = kept
        for replica in left:
            replica.leave()
        self.tally.changed(joined, [each.url for each in left])
        return Changes(joined=tuple(joined), left=tuple(each.url for each in left), refused=tuple(refused))

    def possible(self, want: Want, spent: Collection[Replica]) -> list[Replica]:
        """Who could answer, now or later."""
        return [each for each in self if each.why_not is None and each not in spent and self._suits(each, want)]

    def enter(self, want: Want, spent: Collection[Replica], avoid: Collection[Replica]) -> Replica | None:
        """Take up a request with the best endpoint that is free; None: there is none now. `leave` follows."""
        with self._lock:
            for replica in self._replicas:
                replica.look_again(self.newest)
            free = [each for each in self.possible(want, spent) if each not in avoid and not each.free_in]
            while free:
                best = choose(free, want)
                if best.breaker.enter():
                    best.load += want.tokens
                    return best
                free.remove(best)
            return None

    def leave(self, replica: Replica, want: Want) -> None:
        """The request is no longer with it."""
        with self._lock:
            replica.load -= want.tokens

    def believe(self, replica: Replica, client: Endpoint, want: Want) -> None:
        """Read the endpoint's card where it is not known.

        Raises what reading raises; Unbelieved where it is another teacher, or cannot do what is wanted; Moved.
        """
        if replica.card is None:
            card = self._read(replica, client)
            self._learn(replica, card)
        found = replica.version
        if want.version is not None and found is not None and not want.pinned:
            newer = found > want.version
            if newer or (found != want.version and len(self) == 1):
                raise Moved
        if not self._suits(replica, want):
            raise Unbelieved

    def moved_to(self, version: int) -> None:
        """A score of this weights version arrived."""
        with self._lock:
            self.newest = version if self.newest is None else max(self.newest, version)

    @contextmanager
    def call(self) -> Generator[Waiting]:
        """Somebody waits for an answer while it is open."""
        waiting = Waiting(self.means.clock())
        with self._lock:
            self._waiting.add(waiting)
        try:
            yield waiting
        finally:
            with self._lock:
                self._waiting.discard(waiting)

    @property
    def hangs(self) -> bool:
        """Whether somebody waits in vain, as far as one can tell: for what has failed, or has taken very long."""
        long_ago = self.means.clock() - LONG
        with self._lock:
            return any(each.failed or each.began < long_ago for each in self._waiting)

    def pause(self, seconds: float) -> None:
        """Sleep, unless it is closed meanwhile."""
        if self.means.sleep is None:
            self._closed.wait(seconds)
        else:
            self.means.sleep(seconds)

    @property
    def closed(self) -> bool:
        """Nothing is to be asked any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Close the connections, and with them whatever is still asked. Nothing is asked any more."""
        self._closed.set()
        for replica in self:
            replica.close()

    def _made(self, address: ReplicaAddress) -> Replica:
        return Replica(address, self._open, transport=self.means.transport, clock=self.means.clock)

    def _suits(self, replica: Replica, want: Want) -> bool:
        card = replica.card
        if card is None:
            return True
        if want.version is not None and card.weights_version != want.version:
            return False
        return len(self) == 1 or self._alike(card) or takes(card, want)

    def _alike(self, card: Card) -> bool:
        """Whether what suits the teacher suits an endpoint of this card too."""
        own = self.card
        return own is not None and (own.limits, own.supports) == (card.limits, card.supports)

    def _learn(self, replica: Replica, card: Card) -> None:
        with self._lock:
            replica.read(card)
            if self.newest is not None and card.weights_version <= self.newest:
                self.card = self.card or card
                return
            self.card, self.newest = card, card.weights_version
            for other in self._replicas:
                if other is not replica:
                    other.card = None  # whoever loads weights loads them everywhere: it has probably moved too

    def _read(self, replica: Replica, client: Endpoint) -> Card:
        try:
            card = client.card()
            check_same(self.endpoint, card, replica.url)
            return card
        except (TeacherRefused, Corrupt) as error:
            if isinstance(error, Corrupt) and len(self) == 1:
                raise
            replica.doubt(error)
            self.tally.count(refused=1)
            raise Unbelieved from error


_Placed = TypeVar("_Placed", ReplicaAddress, Replica)


def _by_url(each: Iterable[_Placed]) -> dict[str, _Placed]:
    found: dict[str, _Placed] = {}
    for one in each:
        found.setdefault(one.url.rstrip("/"), one)
    return found
