"""The server that a run's rollouts are written by, through the pool that asks its teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from preceptor.pool import TeacherPool
from preceptor.wire.teachers import SAMPLER
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_trainer.trained import Trained


class PoolSampler:
    """The loop's `Remote`."""

    def __init__(self, pool: TeacherPool, publisher: WeightsPublisher) -> None:
        self._pool, self._publisher = pool, publisher

    def publish(self, weights: Trained) -> int:
        """Raises what `TeacherPool.publish` raises."""
        return self._publisher.publish(SAMPLER, weights)

    def write(self, request: WriteRequest, check: Callable[[], None]) -> Iterator[Written]:
        """Raises what `TeacherPool.write` raises."""
        return self._pool.write(SAMPLER, request, check=check)
