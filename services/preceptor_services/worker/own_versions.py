"""The versions of a run's own student: each recorded with the control plane, then served, in turn.

That is done while the run's next step is written: it takes some time of a processor, and a round trip.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from preceptor.client import Client
from preceptor.wire.pairs import Outcomes, PeerServing, Publication, version_of
from preceptor.wire.runs import Run
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.live import LiveStudent
from preceptor_trainer.trained import Trained

_log = logging.getLogger(__name__)


class OwnVersions:
    """What a side of a pair gives the other."""

    def __init__(self, client: Client, run: Run, fence: int, lease: Lease, student: LiveStudent, url: str) -> None:
        """`url`: where others reach `student`."""
        self._plane, self._run, self._fence, self._lease = client.codistillations, run.id, fence, lease
        self._student, self._url = student, url
        self._serving = False
        self._last: Publication | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"publishes-{run.id}")
        self._under_way: Future[None] | None = None

    def publish(self, step: int, weights: Trained, outcomes: Mapping[str, Outcomes]) -> None:
        """Begin to publish a version. Raises what came of the one before: LeaseLost, and what weights that do not fit
        raise."""
        self.settle()
        version = version_of(self._fence, step)

        def announce(hash: str) -> None:
            told = Publication(version=version, step=step, weights_hash=hash, outcomes=dict(outcomes))
            self._lease.heard(self._lease.report(lambda: self._plane.publish(self._run, self._fence, told)))
            self._last = told

        def work() -> None:
            self._student.move(weights, version, announce)
            self._say_where()

        self._under_way = self._worker.submit(work)

    def settle(self) -> None:
        """Wait for what is under way. Raises what came of it."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def end(self) -> None:
        """Say that no further version follows."""
        self.settle()
        last = self._last
        assert last is not None, "a version was published before the first step"
        self._lease.heard(self._lease.report(lambda: self._plane.publish(self._run, self._fence, last, done=True)))

    def close(self) -> None:
        """What is under way is brought to its end."""
        self._worker.shutdown()

    def _say_where(self) -> None:
        if self._serving:
            return
        card = self._student.card
        serving = PeerServing(fence=self._fence, url=self._url, card=card)
        self._lease.heard(self._lease.report(lambda: self._plane.serve(self._run, serving)))
        self._serving = True
        _log.info("run %s: its student answers at %s as %s", self._run, self._url, card.teacher)
