"""One endpoint of a teacher, as a pool sees it: the way to it, what is known of it, and what it has to do just now."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from preceptor.adapters import Endpoint
from preceptor.breaker import Breaker
from preceptor.errors import Conflict, Overloaded, PreceptorError, ServerFault, Unreachable
from preceptor.line import Line
from preceptor.wire.runs import ReplicaAddress
from preceptor.wire.teachers import Card

CONTEXTS_KEPT = 4096
"""Contexts that an endpoint is thought to remember."""
LOOK_AGAIN = 15.0
"""Seconds after which an endpoint that was not believed, or has another weights version, is looked at again."""
GATEWAY = (502, 504)
"""What a proxy says whose teacher is away. A 500 is the teacher's own: it would say the same again."""

Open = Callable[[ReplicaAddress, httpx.BaseTransport | None], Endpoint]


@dataclass(slots=True, eq=False)
class Dialled:
    """A client for one request at a time. Only then can the request be broken off without hurting another."""

    client: Endpoint
    line: Line | None
    """None where the transport is somebody else's."""
    broken: bool = False

    def break_off(self) -> None:
        self.broken = True
        if self.line is not None:
            self.line.break_off()


class Replica:
    """Safe to share between threads."""

    def __init__(
        self,
        address: ReplicaAddress,
        open_: Open,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises what opening a client raises: Invalid where the URL is none, or the key is not set here."""
        self.address = address
        self.url = address.url
        self.breaker = Breaker(clock=clock)
        self.card: Card | None = None
        """As it was last read; None: to be read before the next request."""
        self.why_not: PreceptorError | None = None
        """Why it is not believed; looked at again after a while."""
        self.load = 0
        """Tokens of the requests that are with it."""
        self._open = open_
        self._transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._rests_until = 0.0
        self._look_again_at = 0.0
        self._remembers: OrderedDict[str, int] = OrderedDict()
        self._gone = self._closed = False
        self._busy: set[Dialled] = set()
        self._idle: list[Dialled] = [self._dial()]

    @property
    def free_in(self) -> float:
        """Seconds until it may be asked; 0: now."""
        return max(self.breaker.opens_in, self._rests_until - self._clock(), 0.0)

    @property
    def version(self) -> int | None:
        """The weights version that it was last seen with."""
        card = self.card
        return None if card is None else card.weights_version

    def remembered(self, contexts: Mapping[str, int]) -> int:
        """How many of these tokens (by context) it has read before."""
        with self._lock:
            return sum(tokens for context, tokens in contexts.items() if context in self._remembers)

    def read(self, card: Card) -> None:
        """Its card, just now."""
        self.card, self._look_again_at = card, self._clock() + LOOK_AGAIN

    def look_again(self, newest: int | None) -> None:
        """Forget what speaks against it where that is long enough ago: its card is then read anew."""
        behind = newest is not None and self.card is not None and self.card.weights_version < newest
        if (behind or self.why_not is not None) and self._clock() >= self._look_again_at:
            self.why_not = self.card = None

    def doubt(self, why: PreceptorError) -> None:
        """Do not ask it for a while."""
        self.why_not, self._look_again_at = why, self._clock() + LOOK_AGAIN

    def answered(self, contexts: Mapping[str, int]) -> None:
        """It did what it was asked for."""
        self.breaker.answered()
        with self._lock:
            for context, tokens in contexts.items():
                self._remembers[context] = tokens
                self._remembers.move_to_end(context)
            while len(self._remembers) > CONTEXTS_KEPT:
                self._remembers.popitem(last=False)

    def failed(self, error: PreceptorError) -> None:
        """Take note of why it did not."""
        if isinstance(error, Overloaded) and error.problem.status == 429:
            self._rests_until = self._clock() + min(error.retry_after or 0.0, 60.0)
            self.breaker.answered()
            return
        if isinstance(error, Unreachable | Overloaded) or _of_a_gateway(error):
            self.card = None  # who answers there the next time may be another
            self.breaker.failed()
            with self._lock:
                self._remembers.clear()
            return
        if isinstance(error, Conflict):
            self.card = None  # it has other weights than it had
        if isinstance(error, ServerFault):
            self.breaker.failed()
        else:
            self.breaker.answered()  # a refusal is an answer

    def borrow(self) -> Dialled:
        """A client that nobody else uses; broken off already where all is closed. Raises what opening one raises."""
        with self._lock:
            dialled = self._idle.pop() if self._idle else None
        dialled = dialled or self._dial()
        with self._lock:
            self._busy.add(dialled)
            closed = self._closed
        if closed:  # whoever closes it has not seen this one among the busy
            dialled.break_off()
        return dialled

    def give_back(self, dialled: Dialled) -> None:
        """It is free again."""
        with self._lock:
            self._busy.discard(dialled)
            keep = not (self._gone or dialled.broken)
            if keep:
                self._idle.append(dialled)
        if not keep:
            dialled.client.close()

    def leave(self) -> None:
        """Close what is idle now, and the rest as it comes back."""
        with self._lock:
            self._gone = True
            idle, self._idle = self._idle, []
        for dialled in idle:
            dialled.client.close()

    def close(self) -> None:
        """Close all, requests that are out included."""
        self.leave()
        with self._lock:
            self._closed, busy = True, list(self._busy)
        for dialled in busy:
            dialled.break_off()

    def _dial(self) -> Dialled:
        line = Line() if self._transport is None else None
        return Dialled(client=self._open(self.address, line or self._transport), line=line)


def may_pass(error: PreceptorError) -> bool:
    """Whether the same request may be answered a little later, or elsewhere."""
    return isinstance(error, Unreachable | Overloaded) or _of_a_gateway(error)


def _of_a_gateway(error: PreceptorError) -> bool:
    return isinstance(error, ServerFault) and error.problem.status in GATEWAY
