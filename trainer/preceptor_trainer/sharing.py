"""A step's tasks, which every rank draws and of which each does its share; and what ranks tell of their rollouts.

A task holds whatever its data row does, dates and decimals too. It is not sent: a rollout names its task by its place
among those that all have drawn alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from preceptor_trainer.batch import Row
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.views import Task, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A rollout as ranks tell of it: a `Row` whose task is a place among its step's."""

    task: int
    index: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    text: str
    finished: bool
    weights_version: int
    verdict: Verdict | None


_SAME = [each.name for each in fields(Written) if each.name != "task"]
"""What a `Row` has too."""


class Sharing:
    """The tasks of the steps that are under way."""

    def __init__(self, draw: Callable[[int], Sequence[Task]], ranks: Ranks) -> None:
        """`draw`: a step's tasks, the same on every rank."""
        self._draw, self._ranks = draw, ranks
        self._drawn: dict[int, Sequence[Task]] = {}

    def mine(self, step: int) -> list[Task]:
        """This rank's share, drawn anew."""
        self._drawn[step] = tasks = self._draw(step)
        return self._ranks.share(tasks)

    def all(self, step: int) -> Sequence[Task]:
        """Of a step whose share was drawn last and that is not `done`."""
        return self._drawn[step]

    def written(self, step: int, rows: Sequence[Row]) -> list[Written]:
        """What is told of this rank's rollouts in a step."""
        places = defaultdict[str, list[tuple[int, Task]]](list)
        for at, task in enumerate(self._drawn[step]):
            places[task.id].append((at, task))
        return [
            Written(task=_place(places[row.task.id], row.task), **{name: getattr(row, name) for name in _SAME})
            for row in rows
        ]

    def done(self, step: int, written: Sequence[Written]) -> list[Row]:
        """The rollouts that were told of. Nobody needs the step's tasks after that."""
        tasks = self._drawn.pop(step)
        return [Row(task=tasks[each.task], **{name: getattr(each, name) for name in _SAME}) for each in written]


def _place(same: Sequence[tuple[int, Task]], task: Task) -> int:
    """Where it is among tasks of one question, which may differ in what else their data rows hold."""
    return next((at for at, each in same if each is task), same[0][0])
