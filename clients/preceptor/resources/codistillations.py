"""Pairs of runs that teach each other: start them, look at them, stop them, and, for a worker, publish a side's
student."""

from __future__ import annotations

from collections.abc import Iterator

from preceptor.connection import Connection
from preceptor.records import joined
from preceptor.wire.codistillations import Codistillation, CodistillationCreate, Record
from preceptor.wire.pairs import PeerServing, Publication, PublicationReport, Published
from preceptor.wire.runs import LeaseStatus


class Codistillations:
    """Pairs of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- for whoever wants two better students ------------------------------------------------------------------------

    def start(self, create: CodistillationCreate, *, idempotency_key: str | None = None) -> Codistillation:
        """Queue a pair's two runs. The same key with the same wish gives the same pair, however often it is sent.

        Raises Invalid, naming the field, where the wish cannot be carried out; Conflict where the key was used for
        another wish, or the pair's name is taken.
        """
        return self._connection.start(Codistillation, "/v1/codistillations", create, idempotency_key)

    def list(self) -> tuple[Codistillation, ...]:
        """All pairs, newest first."""
        return tuple(self._connection.pages(Codistillation, "/v1/codistillations"))

    def get(self, pair_id: str) -> Codistillation:
        """One pair. Raises NotFound."""
        return self._connection.get(Codistillation, f"/v1/codistillations/{pair_id}")

    def record(self, pair_id: str) -> Record:
        """Both sides' curves by domain, gates, and what each gave the other, held against what was published. Fetched
        page by page; long runs have many."""
        return joined(self._pages(f"/v1/codistillations/{pair_id}/record"))

    def _pages(self, path: str) -> Iterator[Record]:
        cursor: str | None = None
        while True:
            page = self._connection.get(Record, path, params={"cursor": cursor})
            yield page
            if (cursor := page.next_cursor) is None:
                return

    def stop(self, pair_id: str) -> Codistillation:
        """Stop both sides within one step each, with checkpoints. Raises Conflict where both have ended."""
        return self._connection.post(Codistillation, f"/v1/codistillations/{pair_id}/stop")

    def resume(self, pair_id: str) -> Codistillation:
        """Queue again what has stopped of it. Raises Conflict where nothing has."""
        return self._connection.post(Codistillation, f"/v1/codistillations/{pair_id}/resume")

    # -- for a worker -------------------------------------------------------------------------------------------------

    def serve(self, run_id: str, serving: PeerServing) -> LeaseStatus:
        """Say where a run's student answers; counts as a heartbeat. Raises LeaseLost."""
        answer = self._connection.send("PUT", f"/v1/runs/{run_id}/peer", body=serving)
        return self._connection.parse(LeaseStatus, answer)

    def publish(self, run_id: str, fence: int, publication: Publication, *, done: bool = False) -> LeaseStatus:
        """Record a version before it answers anybody, or, once more, that it was the last (`done`); counts as a
        heartbeat. Raises LeaseLost, and Conflict where its number was given to other weights."""
        report = PublicationReport(fence=fence, publication=publication, done=done)
        return self._connection.post(LeaseStatus, f"/v1/runs/{run_id}/publications", report, twice_is_once=True)

    def published(self, run_id: str, *, after: int = 0) -> Published:
        """Where a run's student answers, and its versions above `after`: the first thousand of them."""
        return self._connection.get(Published, f"/v1/runs/{run_id}/publications", params={"after": after})
