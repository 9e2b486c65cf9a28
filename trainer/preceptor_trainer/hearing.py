"""The score stage: teachers are asked about part after part; and anew, where one that hangs is replaced meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from preceptor.ledgers import added
from preceptor.wire.runs import TeacherLedger
from preceptor.wire.teachers import SAMPLER
from preceptor_trainer.asking import Scorer
from preceptor_trainer.flow import Part
from preceptor_trainer.opinions import Opinions

OUTCOMES = (
    "sequences",
    "tokens",
    "fallbacks",
    "dropped",
    "texts",
    "unwritten",
    "unreadable",
    "cache_hits",
    "weights_versions",
    "answers",
)
"""Of a teacher's ledger: what came of asking. All else is what it took."""


class Hearing:
    """A `Stage`. What it took to hear a part is in that part's ledger, however often it was heard; what came of it
    counts once."""

    def __init__(self, opinions: Opinions, scorer: Scorer) -> None:
        self._opinions, self._scorer = opinions, scorer
        self._told: dict[tuple[int, int], Mapping[str, TeacherLedger]] = {}
        self._spent: Mapping[str, TeacherLedger] = {}

    def __call__(self, part: Part) -> Part:
        at, spent, self._spent = (part.step, part.index), self._spent, {}
        self._told = {known: each for known, each in self._told.items() if known[0] >= part.step}
        self._told[at] = added([_thrown_away(self._told.get(at, {})), spent])
        heard = self._opinions.hear(part.rows, part.step)
        self._told[at] = added([self._told[at], self._scorer.take_ledger(), heard.texts])
        return replace(part, heard=heard, teachers=self._told[at])

    def again(self) -> Callable[[], None]:
        """Break off what is asked of teachers that others are to replace. Called where nothing that is heard by then is
        wanted any more; what it returns, before all of it is heard anew."""
        replaced = self._scorer.begin_again()

        def begin() -> None:
            self._opinions.begin_again(replaced)
            self._spent = added([self._spent, _thrown_away(self._scorer.take_ledger())])

        return begin


def _thrown_away(ledgers: Mapping[str, TeacherLedger]) -> dict[str, TeacherLedger]:
    """What asking took where nobody learns from what came of it, by role. A sampler's rollouts are kept."""
    none = TeacherLedger()
    nothing = {name: getattr(none, name) for name in OUTCOMES}
    return {role: ledger if role == SAMPLER else ledger.model_copy(update=nothing) for role, ledger in ledgers.items()}
