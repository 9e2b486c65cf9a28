"""Sends a moving self-teacher its weights, through the pool that asks it."""

from __future__ import annotations

import logging
from pathlib import Path

from preceptor.pool import TeacherPool
from preceptor.wire.weights import WeightsKind
from preceptor_trainer.trained import Trained

_log = logging.getLogger(__name__)


class WeightsPublisher:
    """The loop's `Publisher`."""

    def __init__(self, pool: TeacherPool, student: Path) -> None:
        """`student`: the folder of the model that the run began with, which a LoRA student's adapters are for."""
        self._pool, self._student = pool, student

    def publish(self, role: str, weights: Trained) -> int:
        """Returns their version once they are live at every endpoint in reach. Raises what `TeacherPool.publish`
        raises."""
        base = self._student if weights.kind is WeightsKind.LORA else None
        arrays = {name: each.numpy() for name, each in weights.tensors.items()}
        version = self._pool.publish(role, arrays, weights.kind, weights.scale, base=base)
        _log.info("role %s: weights version %d is live", role, version)
        return version
