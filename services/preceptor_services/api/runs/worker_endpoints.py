"""Runs over HTTP, for the worker that advances one. Every report carries the lease's fencing number."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body

from preceptor.wire.runs import (
    CheckpointReport,
    Finish,
    Heartbeat,
    LeaseGrant,
    LeaseStatus,
    Note,
    Run,
    StepsReport,
)
from preceptor_services.api.deps import Fence, PlaneDep, Runner, Taker, UnitDep, router
from preceptor_services.api.runs import leases, reports

ROUTER = router("worker")
_STEPS = Body(
    openapi_examples={
        "step": {"value": {"fence": 1, "steps": [{"step": 1, "metrics": {"loss": 0.693}, "ledger": {"rollouts": 64}}]}}
    }
)
_FINISH = Body(
    openapi_examples={
        "cancelled": {"value": {"fence": 1, "state": "cancelled"}},
        "failed": {
            "value": {
                "fence": 1,
                "state": "failed",
                "error": {"title": "Bad scores", "detail": "Teacher math-32b answered NaN at step 7.", "status": 502},
            }
        },
    }
)


@ROUTER.post("/runs/{run_id}/lease")
def take_lease(run_id: str, wish: Taker, caller: Runner, plane: PlaneDep, unit: UnitDep) -> LeaseGrant:
    """Take the right to advance a run. 409 where another worker has it, or there is nothing to do."""
    return leases.take(plane, unit, run_id, wish.worker)


@ROUTER.put("/runs/{run_id}/lease")
def keep_lease(run_id: str, beat: Heartbeat, caller: Runner, plane: PlaneDep, unit: UnitDep) -> LeaseStatus:
    """A heartbeat. 409 where the lease has ended."""
    return reports.heartbeat(plane, unit, run_id, beat.fence)


@ROUTER.delete("/runs/{run_id}/lease", status_code=204)
def release_lease(run_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep, fence: Fence) -> None:
    """Give the lease back: the run is queued again, for any worker."""
    leases.release(plane, unit, run_id, fence)


@ROUTER.post("/runs/{run_id}/steps")
def report_steps(
    run_id: str, report: Annotated[StepsReport, _STEPS], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> LeaseStatus:
    """Record steps, samples and evaluations. What is recorded already is left as it is."""
    return reports.steps(plane, unit, run_id, report)


@ROUTER.post("/runs/{run_id}/notes")
def report_note(run_id: str, note: Note, caller: Runner, plane: PlaneDep, unit: UnitDep) -> LeaseStatus:
    """Tell whoever watches the run something."""
    return reports.note(plane, unit, run_id, note)


@ROUTER.post("/runs/{run_id}/checkpoints")
def report_checkpoint(
    run_id: str, report: CheckpointReport, caller: Runner, plane: PlaneDep, unit: UnitDep
) -> LeaseStatus:
    """Record where the run would go on from."""
    return reports.checkpoint(plane, unit, run_id, report)


@ROUTER.post("/runs/{run_id}/finish")
def finish_run(run_id: str, finish: Annotated[Finish, _FINISH], caller: Runner, plane: PlaneDep, unit: UnitDep) -> Run:
    """End the run and the lease."""
    return reports.finish(plane, unit, run_id, finish)
