"""What flows through a run's stages: parts of batches, and how long they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from preceptor.wire.runs import TeacherLedger
from preceptor_trainer.asking import Heard
from preceptor_trainer.batch import Row


@dataclass(slots=True, kw_only=True)
class Part:
    """Some whole groups of a batch on their way through the stages."""

    step: int
    index: int
    """Its place among the batch's parts."""
    of: int
    """How many those are."""
    rows: Sequence[Row]
    heard: Heard | None = None
    """There once teachers were asked."""
    teachers: Mapping[str, TeacherLedger] = field(default_factory=dict[str, TeacherLedger])
    """What passed between us and them, by role."""


@dataclass(slots=True)
class Times:
    """Seconds of one step, all its parts together."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    """Worked, by stage."""
    idle: defaultdict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    """Waited, by stage and what for."""

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Counts what is done inside as worked by this stage."""
        began = monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += monotonic() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step's batch, through all stages."""

    parts: Sequence[Part]
    """In their order."""
    times: Times
