"""Tasks of two domains in one stream, for students of several specialists: the `domain` column says which is which."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from random import Random

from pydantic import Field

from preceptor_trainer.tasks._procedural import ProceduralTask
from preceptor_trainer.views import Task


class Domains(ProceduralTask):
    """A question of one of two domains, the first as often as `share` says. A question is the same one, on the same
    side of the split, as in its own task; of its columns those are kept that both have."""

    share: float = Field(0.5, gt=0, lt=1)
    """Share of the questions that are of the first domain."""

    @abstractmethod
    def parts(self) -> tuple[tuple[str, ProceduralTask], tuple[str, ProceduralTask]]:
        """Both domains' names and tasks."""

    def draw(self, rng: Random) -> Task:
        first, second = self.parts()
        domain, source = first if rng.random() < self.share else second
        task = source.draw(rng)
        kept = {name: value for name, value in task.columns.items() if name in self.columns}
        return replace(task, columns={**kept, "domain": domain})
