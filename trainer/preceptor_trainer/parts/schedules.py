"""Coefficients that move with the step."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from preceptor_trainer.recipe import Schedule


class Linear(Schedule, kind="linear"):
    """From `start` at step 1 + `wait` to `end` at step 1 + `wait` + `steps`; constant before and after."""

    start: float
    """Value at the first step."""
    end: float
    """Value in the end."""
    steps: int = Field(ge=1)
    """How many steps the way takes."""
    wait: int = Field(default=0, ge=0)
    """Steps after the first before it begins to move."""

    def at(self, step: int) -> float:
        share = min(max(step - 1 - self.wait, 0) / self.steps, 1.0)
        return self.start + (self.end - self.start) * share


class Switch(Schedule, kind="switch"):
    """One value for the first `steps` steps, another from then on."""

    before: float
    """Value up to step `steps`."""
    after: float
    """Value from step `steps` + 1 on."""
    steps: int = Field(ge=1)
    """How many steps the first one lasts."""

    def at(self, step: int) -> float:
        return self.before if step <= self.steps else self.after


class Staircase(Schedule, kind="staircase"):
    """start + rise * floor((step - 1) / every), never above `most` nor below `least`: a horizon or a weight in
    stages."""

    start: float
    """Value at the first step."""
    rise: float
    """What every stage adds; negative falls."""
    every: int = Field(ge=1)
    """Steps of a stage."""
    least: float | None = None
    """Smallest value; None: there is no such bound."""
    most: float | None = None
    """Largest value; None: there is no such bound."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.least is not None and self.most is not None and self.most < self.least:
            raise ValueError(f"most: {self.most} is below least, {self.least}")
        return self

    def at(self, step: int) -> float:
        value = self.start + self.rise * (max(step - 1, 0) // self.every)
        value = value if self.least is None else max(value, self.least)
        return value if self.most is None else min(value, self.most)
