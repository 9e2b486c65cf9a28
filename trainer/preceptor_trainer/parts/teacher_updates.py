"""How a self-teacher that is not frozen follows the student. The trainer applies the rule to float32 weights and sends
the outcome to the teacher; of a LoRA student these are the adapters, factor by factor.
"""

from __future__ import annotations

from pydantic import Field

from preceptor_trainer.recipe import TeacherUpdate


class Ema(TeacherUpdate, kind="ema"):
    """An exponential moving average of the student."""

    decay: float = Field(default=0.95, ge=0, lt=1)
    """Share of the old teacher that an update keeps."""
    every: int = Field(default=1, ge=1)
    """Steps from one update to the next."""

    def decay_after(self, step: int) -> float | None:
        return self.decay if step % self.every == 0 else None


class CopyEvery(TeacherUpdate, kind="copy_every"):
    """A copy of the student every so many steps; 1: the student itself."""

    every: int = Field(default=10, ge=1)
    """How many."""

    def decay_after(self, step: int) -> float | None:
        return 0.0 if step % self.every == 0 else None


class TrustRegion(TeacherUpdate, kind="trust_region"):
    """Never farther than a share of the way from the weights that the run began with to the student's.

    SDPO (arXiv:2601.20802) mixes two models' logits so; here it is their weights, and one forward pass.
    """

    share: float = Field(default=0.05, gt=0, lt=1)
    """How much of the way."""
    every: int = Field(default=1, ge=1)
    """Steps from one update to the next."""

    def decay_after(self, step: int) -> float | None:
        return 0.0 if step % self.every == 0 else None

    @property
    def anchor(self) -> float:
        return 1 - self.share
