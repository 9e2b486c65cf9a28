"""The reporter of ranks that train together: the first one's, whose answers all are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Evaluation, Sample, StepReport
from preceptor_trainer.ranks import NOTHING, Ranks
from preceptor_trainer.reporting import Reporter, Signal

News = TypeVar("News")
_SIGNAL = TypeAdapter(Signal)


class Together(Generic[News]):
    """A `Reporter` on every rank. The loop asks it at the same points on all, so that they end at the same step."""

    def __init__(
        self,
        ranks: Ranks,
        first: Reporter | None,
        news: Callable[[], News | None] = lambda: None,
        hear: Callable[[News], object] = lambda news: None,
        kind: TypeAdapter[Any] = NOTHING,
        stopping: Callable[[], bool] = lambda: False,
        hangs: Callable[[], bool] = lambda: False,
        again: Callable[[], object] = lambda: None,
    ) -> None:
        """`first`: the first rank's reporter, None on the others. What its `news` returns, whenever the loop asks for
        a signal, all ranks `hear`; None is no news. `kind`: of news, or None. `stopping`: whether this rank has been
        told to stop. `hangs`: whether it waits in vain for a teacher that is to be replaced; where one does, all ask
        anew, and `again` is called."""
        self._ranks, self._first = ranks, first
        self._news, self._hear, self._kind, self._stopping = news, hear, kind, stopping
        self._hangs, self._again = hangs, again

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal:
        return self._agreed(Signal.GO if self._first is None else self._first.step(report, samples))

    def signal(self) -> Signal:
        news = self._ranks.told(None if self._first is None else self._news(), self._kind)
        if news is not None:
            self._hear(news)
        signal = self._agreed(Signal.GO if self._first is None else self._first.signal())
        if signal is not Signal.GO or self._ranks.all(not self._hangs()):
            return signal
        self._again()
        return Signal.AGAIN

    def _agreed(self, mine: Signal) -> Signal:
        """The first rank's signal; where that is to go on, and some rank has been told to stop, all stop."""
        wishes = self._ranks.every(Signal.STOP if mine is Signal.GO and self._stopping() else mine, _SIGNAL)
        return next((wish for wish in wishes if wish is not Signal.GO), Signal.GO)

    def evaluation(self, evaluation: Evaluation) -> None:
        if self._first is not None:
            self._first.evaluation(evaluation)

    def checkpoint(self, folder: Path, step: int) -> None:
        if self._first is not None:
            self._first.checkpoint(folder, step)

    def note(self, data: Mapping[str, object], step: int) -> None:
        if self._first is not None:
            self._first.note(data, step)

    def debates(self, held: Sequence[HeldDebate]) -> None:
        if self._first is not None:
            self._first.debates(held)
