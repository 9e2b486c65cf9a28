"""Runs: start them, watch them, and, for a worker, advance them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from preceptor.connection import Connection
from preceptor.errors import Overloaded, Unreachable
from preceptor.sse import frames
from preceptor.wire.common import Page
from preceptor.wire.fillings import Refill
from preceptor.wire.runs import (
    CheckpointReport,
    Evaluation,
    Event,
    Finish,
    Heartbeat,
    LeaseGrant,
    LeaseRequest,
    LeaseStatus,
    Note,
    Run,
    RunCreate,
    RunState,
    Sample,
    StepReport,
    StepsReport,
)

RECONNECTS = 8
"""How often in a row a stream of events is opened again without one event before the failure is raised."""


class Runs:
    """Runs of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- for whoever wants a better student ---------------------------------------------------------------------------

    def start(self, create: RunCreate, *, idempotency_key: str | None = None) -> Run:
        """Queue a run. The same key with the same wish gives the same run, however often it is sent.

        Raises Invalid, naming the field, where the wish cannot be carried out; Conflict where the key was used for
        another wish.
        """
        return self._connection.start(Run, "/v1/runs", create, idempotency_key)

    def page(
        self,
        *,
        state: RunState | None = None,
        recipe: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[Run]:
        """One page of runs, newest first."""
        params = {"state": state, "recipe": recipe, "name": name, "limit": limit, "cursor": cursor}
        return self._connection.get(Page[Run], "/v1/runs", params=params)

    def list(
        self, *, state: RunState | None = None, recipe: str | None = None, name: str | None = None
    ) -> Iterator[Run]:
        """All runs, newest first, fetched page by page."""
        return self._connection.pages(Run, "/v1/runs", {"state": state, "recipe": recipe, "name": name})

    def get(self, run_id: str) -> Run:
        """One run. Raises NotFound."""
        return self._connection.get(Run, f"/v1/runs/{run_id}")

    def cancel(self, run_id: str) -> Run:
        """Ask for the run to be cancelled: at once while it is queued, within one step while it is running."""
        return self._connection.post(Run, f"/v1/runs/{run_id}/cancel", twice_is_once=True)

    def pause(self, run_id: str) -> Run:
        """Have a running run stop within one step, with a checkpoint. Raises Conflict where it is not running."""
        return self._connection.post(Run, f"/v1/runs/{run_id}/pause", twice_is_once=True)

    def resume(self, run_id: str, *, step: int | None = None) -> Run:
        """Queue a paused, failed or cancelled run again; it continues from its last checkpoint, or from that of `step`.

        Raises Conflict where that is not kept.
        """
        return self._connection.post(Run, f"/v1/runs/{run_id}/resume", params={"step": step})

    def refill(self, run_id: str, teachers: Mapping[str, str | None]) -> Run:
        """Have these teachers fill these roles from now on, by role; None: nobody. A worker follows between two steps,
        or in the one that waits in vain for who leaves.

        Raises Invalid, naming the field, where one does not suit; Conflict where the run is over, or the role is not
        refilled while a worker has it. Nothing has changed then.
        """
        path, wish = f"/v1/runs/{run_id}/teachers", Refill(teachers=dict(teachers))
        return self._connection.parse(Run, self._connection.send("PATCH", path, body=wish, twice_is_once=True))

    def events(self, run_id: str, *, after: int = 0, follow: bool = True) -> Iterator[Event]:
        """What happened to a run, in order, from the event after `after` on.

        With `follow` it goes on until the run has ended, over as many connections as it takes; no event comes twice.
        Without, it ends with the last event there is.
        """
        silent = 0
        while True:
            try:
                for event in self._stream(run_id, after, follow):
                    if event is None:
                        return
                    after, silent = event.id, 0
                    yield event
                cut = Unreachable(f"The stream of run {run_id}'s events was cut off.")
            except (Unreachable, Overloaded) as error:
                cut = error
            if silent >= RECONNECTS:
                raise cut
            self._connection.pause(silent, cut.retry_after if isinstance(cut, Overloaded) else None)
            silent += 1

    def _stream(self, run_id: str, after: int, follow: bool) -> Iterator[Event | None]:
        """Events over one connection; None: the control plane says that these were all."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        params = {"follow": json.dumps(follow)}
        with self._connection.stream(f"/v1/runs/{run_id}/events", params=params, headers=headers) as answer:
            for frame in frames(answer.iter_lines()):
                if frame.event == "end":
                    yield None
                    return
                yield Event.model_validate_json(frame.data)

    def metrics(self, run_id: str, *, after: int = 0) -> Iterator[StepReport]:
        """The steps after step `after`, in order, each with its metrics and ledger."""
        return self._connection.pages(StepReport, f"/v1/runs/{run_id}/metrics", {"cursor": after or None})

    def metrics_csv(self, run_id: str) -> str:
        """All steps as CSV: a column a metric, a row a step."""
        return self._connection.send("GET", f"/v1/runs/{run_id}/metrics", params={"format": "csv"}).text

    def samples(self, run_id: str, *, step: int | None = None) -> Iterator[Sample]:
        """Rollouts that were kept, in order of step."""
        return self._connection.pages(Sample, f"/v1/runs/{run_id}/samples", {"step": step})

    def evaluations(self, run_id: str) -> tuple[Evaluation, ...]:
        """The run's evaluations, in order of step."""
        return self._connection.get(tuple[Evaluation, ...], f"/v1/runs/{run_id}/evaluations")

    # -- for a worker -------------------------------------------------------------------------------------------------

    def lease(self, run_id: str, worker: str) -> LeaseGrant:
        """Take the right to advance a run. Raises Conflict where another worker has it or there is nothing to do."""
        return self._connection.post(LeaseGrant, f"/v1/runs/{run_id}/lease", LeaseRequest(worker=worker))

    def heartbeat(self, run_id: str, fence: int) -> LeaseStatus:
        """Keep the lease. Raises LeaseLost."""
        answer = self._connection.send("PUT", f"/v1/runs/{run_id}/lease", body=Heartbeat(fence=fence))
        return self._connection.parse(LeaseStatus, answer)

    def release(self, run_id: str, fence: int) -> None:
        """Give the lease back: the run is queued again, for any worker. Raises LeaseLost."""
        self._connection.send("DELETE", f"/v1/runs/{run_id}/lease", params={"fence": fence})

    def report(self, run_id: str, report: StepsReport) -> LeaseStatus:
        """Record steps, samples and evaluations; counts as a heartbeat. Raises LeaseLost."""
        return self._connection.post(LeaseStatus, f"/v1/runs/{run_id}/steps", report, twice_is_once=True)

    def note(self, run_id: str, note: Note) -> LeaseStatus:
        """Tell whoever watches the run something; counts as a heartbeat. Raises LeaseLost."""
        return self._connection.post(LeaseStatus, f"/v1/runs/{run_id}/notes", note)

    def checkpoint(self, run_id: str, report: CheckpointReport) -> LeaseStatus:
        """Record where the run would go on from; counts as a heartbeat. Raises LeaseLost."""
        return self._connection.post(LeaseStatus, f"/v1/runs/{run_id}/checkpoints", report, twice_is_once=True)

    def finish(self, run_id: str, finish: Finish) -> Run:
        """End the run and the lease. Raises LeaseLost."""
        return self._connection.post(Run, f"/v1/runs/{run_id}/finish", finish, twice_is_once=True)
