"""A run that is one side of a pair: what it gives its peer after every step, and what it asks the peer about.

The loop knows no network and no other run: whoever pairs it (`Pair`) publishes, waits, and keeps what is known of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from preceptor.wire.pairs import Outcomes
from preceptor.wire.runs import Run
from preceptor_trainer.batch import Row
from preceptor_trainer.model import Model
from preceptor_trainer.parts.contexts_peers import BetterTutor, Known
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.standing import Standing, domain_of
from preceptor_trainer.trained import Trained, copied

PRIOR = (1.0, 1.0)
"""Of the success rates that are told; a recipe's parts have their own."""


class Pair(Protocol):
    """Whoever connects a run with its peer."""

    def publish(self, step: int, weights: Trained, outcomes: Mapping[str, Outcomes]) -> None:
        """Have these weights, the student's after `step`, answer the peer. `outcomes`: of that step, by domain."""
        ...

    def meet(self, step: int) -> Mapping[str, Standing]:
        """Wait until the peer is near enough for this step to be scored; what is known of both, by domain. Raises where
        it is lost and the run is not to go on alone."""
        ...

    def metrics(self, step: int) -> dict[str, float]:
        """How long was waited for the peer before this step, and whether it went on without."""
        ...


class Paired:
    """The loop's side of a pair; a run that is alone has one that does nothing."""

    def __init__(self, pair: Pair | None, model: Model, run: Run, recipe: Recipe) -> None:
        self._pair, self._model, self._recipe = pair, model, recipe
        self._met: dict[int, Mapping[str, Standing]] = {}
        self._lora = run.training.lora

    def publish(self, step: int, rows: Sequence[Row] = ()) -> None:
        """The student as it is now, after `step`, whose rollouts were these."""
        if self._pair is not None:
            self._pair.publish(step, copied(self._model, self._lora), outcomes_of(rows))

    def meet(self, step: int) -> Mapping[str, Standing]:
        """See `Pair`; nothing, where the run is alone."""
        if self._pair is None:
            return {}
        self._met[step] = found = self._pair.meet(step)
        return found

    def metrics(self, step: int) -> dict[str, float]:
        """What is to be told of the pair with this step: what `Pair` tells; by domain, how it stood with both when the
        step was scored, and whether the peer was heard there (`gate/`) and the student as it began (`anchor/`)."""
        if self._pair is None:
            return {}
        told, standing = dict(self._pair.metrics(step)), self._met.get(step, {})
        self._met = {known: each for known, each in self._met.items() if known > step}
        for domain, each in standing.items():
            told |= {f"own/{domain}": each.own.rate(PRIOR), f"peer/{domain}": each.peer.rate(PRIOR)}
        for context in self._recipe.contexts.values():
            if isinstance(context, Known | BetterTutor):
                told |= {f"{context.told}/{domain}": float(context.heard(each)) for domain, each in standing.items()}
        return told


def outcomes_of(rows: Sequence[Row]) -> dict[str, Outcomes]:
    """Verified rollouts by their tasks' `domain`. One that nobody judged is left out."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        if row.verdict is not None:
            domain = domain_of(row.task.columns)
            counts.setdefault(domain, [0, 0])[0 if row.verdict.correct else 1] += 1
    return {domain: Outcomes(right=right, wrong=wrong) for domain, (right, wrong) in counts.items()}
