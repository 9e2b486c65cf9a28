"""Whose turn it is: callers get equal time, and so do the requests of one caller, however much each of them wants.

Time is counted where it was spent. Who arrives starts with what everyone would have had by now if all had got the same:
nobody saves turns up, and whoever goes on arriving anew starves nobody.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Level:
    """Seconds that each of several had, and what one would have had who was there all the time."""

    level: float = 0.0
    had: dict[Hashable, float] = field(default_factory=dict)

    def charge(self, who: Hashable, seconds: float) -> None:
        self.had[who] += seconds
        self.level += seconds / len(self.had)


class Shares:
    """Seconds that callers and their requests have had, while they want something. Not thread-safe."""

    def __init__(self) -> None:
        self._callers = _Level()
        self._requests: dict[str, _Level] = {}

    def enter(self, caller: str, request: Hashable) -> None:
        """A request wants turns from now on."""
        self._callers.had.setdefault(caller, self._callers.level)
        held = self._requests.setdefault(caller, _Level())
        held.had[request] = held.level

    def charge(self, caller: str, request: Hashable, seconds: float) -> None:
        """It has had this much."""
        self._callers.charge(caller, seconds)
        self._requests[caller].charge(request, seconds)

    def leave(self, caller: str, request: Hashable) -> None:
        """It wants no more."""
        held = self._requests[caller]
        del held.had[request]
        if not held.had:
            del self._requests[caller], self._callers.had[caller]

    def place(self, caller: str, request: Hashable) -> tuple[float, float]:
        """Smaller is sooner; equal is first come, first served."""
        return self._callers.had[caller], self._requests[caller].had[request]
