"""What whoever watches a run is told by the loop, and wants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Evaluation, Sample, StepReport


class Signal(StrEnum):
    """What the watcher wants of the loop."""

    GO = "go"
    CANCEL = "cancel"
    PAUSE = "pause"
    STOP = "stop"
    """The worker is shutting down: somebody else will go on."""
    AGAIN = "again"
    """Go on; the step that is waited for waits in vain for a teacher that another replaces: ask about it anew."""


class Reporter(Protocol):
    """Who is told. Any method may raise to end the loop (a lost lease); nothing more is reported then. Of several ranks
    each has one, and all of them answer alike (`together.Together`)."""

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal: ...

    def signal(self) -> Signal:
        """What is wanted now, while there is no step to report. Asked several times a second: it must not wait."""
        ...

    def evaluation(self, evaluation: Evaluation) -> None: ...

    def checkpoint(self, folder: Path, step: int) -> None: ...

    def note(self, data: Mapping[str, object], step: int) -> None: ...

    def debates(self, held: Sequence[HeldDebate]) -> None:
        """What debaters said, of the step that is told next."""
        ...
