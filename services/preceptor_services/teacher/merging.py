"""Backends that compute rows of several requests in one forward pass, and how their requests reach the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from preceptor.wire.score import Numbers, ScoreRequest
from preceptor_services.teacher.backends import About
from preceptor_services.teacher.jobs import Part


@runtime_checkable
class Merging(Protocol):
    """What a backend offers besides `score`, to have requests share its passes."""

    @property
    def pass_tokens(self) -> int:
        """That a pass may hold."""
        ...

    def begin(self, request: ScoreRequest) -> Part:
        """A request with nothing computed. Finished on the weights that are live now."""
        ...

    def advance(self, parts: Sequence[Any]) -> Sequence[int]:
        """One pass: for the first part for certain, for the others as far as they fit in. Returns the tokens that were
        computed for each. Where it raises, every part is as it was before."""
        ...

    def numbers(self, part: Any) -> Numbers:
        """Of a part that has nothing left."""
        ...

    def answer_bytes(self, request: ScoreRequest) -> int:
        """Memory that its numbers take."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A part, and what computes it."""

    part: Part
    about: About

    @property
    def left(self) -> int:
        """Tokens that are still to be computed."""
        return self.part.left


def advance_of(backend: object) -> Callable[[Sequence[Begun]], Sequence[int]] | None:
    """Its passes, for the scheduler; None: it has none."""
    if not isinstance(backend, Merging):
        return None
    advance = backend.advance
    return lambda begun: advance([each.part for each in begun])
