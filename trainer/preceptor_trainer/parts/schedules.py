"""Coefficients that move with the step."""

from __future__ import annotations

from pydantic import Field

from preceptor_trainer.recipe import Schedule


class Linear(Schedule, kind="linear"):
    """From `start` at step 1 to `end` at step 1 + `steps`, then constant."""

    start: float
    """Value at the first step."""
    end: float
    """Value from step 1 + `steps` on."""
    steps: int = Field(ge=1)
    """How many steps the way takes."""

    def at(self, step: int) -> float:
        share = min(max(step - 1, 0) / self.steps, 1.0)
        return self.start + (self.end - self.start) * share
