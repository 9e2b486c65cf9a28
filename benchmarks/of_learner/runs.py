"""Runs of the loop that workers run, as benchmarks begin and watch them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from of_teacher.answers import HASH

from preceptor.wire.runs import Run, StepReport
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.reporting import Signal


def a_run(name: str, recipe: Recipe, **training: Any) -> Run:
    """A run of this recipe that evaluates and saves as little as a run may."""
    now = datetime.now(UTC).isoformat()
    seldom = {"evaluate_items": 2, "evaluate_every": 1000, "checkpoint_every": 1000, "samples_kept": 0}
    return Run.model_validate(
        {
            "id": "run-1",
            "name": "bench",
            "recipe": name,
            "overrides": {},
            "resolved": recipe.model_dump(mode="json"),
            "student": HASH,
            "teachers": {},
            "data": {"kind": "task", "task": "bench"},
            "training": {**seldom, **training},
            "state": "running",
            "step": 0,
            "created_at": now,
            "updated_at": now,
        }
    )


class Told:
    """Keeps what is reported; `after` is called at the end of every step."""

    def __init__(self, after: Callable[[], None] = lambda: None) -> None:
        self.steps: list[StepReport] = []
        self._after = after

    def step(self, report: StepReport, samples: object) -> Signal:
        self.steps.append(report)
        self._after()
        return Signal.GO

    def signal(self) -> Signal:
        return Signal.GO

    def evaluation(self, evaluation: object) -> None:
        pass

    def checkpoint(self, folder: Path, step: int) -> None:
        pass

    def note(self, data: object, step: int) -> None:
        pass

    def debates(self, held: object) -> None:
        pass
