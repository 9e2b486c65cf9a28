"""Runs over HTTP, for whoever wants a better student."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Body, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from preceptor.wire.common import Page
from preceptor.wire.fillings import Refill
from preceptor.wire.runs import Evaluation, Run, RunCreate, RunState, Sample, StepReport
from preceptor_services.api.deps import (
    LIMIT,
    MOST,
    Cursor,
    IdempotencyKey,
    Limit,
    PlaneDep,
    Reader,
    Runner,
    UnitDep,
    router,
)
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history, readings, refilling, service
from preceptor_services.api.runs.stream import stream

ROUTER = router("runs")
_STUDENT = "sha256:" + "3f" * 32
_WISH = Body(
    openapi_examples={
        "task": {
            "summary": "Self-distillation on a procedural task",
            "value": {
                "recipe": "opsd",
                "student": _STUDENT,
                "teachers": {"self": "spelling"},
                "data": {"kind": "task", "task": "spell_backward"},
                "training": {"steps": 40, "seed": 1},
            },
        },
        "dataset": {
            "summary": "Distillation on one's own rows",
            "value": {
                "recipe": "opd",
                "overrides": {"rollout": {"max_tokens": 256}},
                "student": _STUDENT,
                "teachers": {"teacher": "math-32b"},
                "data": {
                    "kind": "dataset",
                    "artifact": _STUDENT,
                    "columns": {"answer": "solution"},
                    "verifier": "math",
                },
            },
        },
    }
)
_REFILL = Body(
    openapi_examples={
        # None, for nobody, is not shown: the schema's writer leaves out what is None, in examples as elsewhere.
        "replace": {"summary": "Another teacher for a role", "value": {"teachers": {"maths": "maths-72b"}}},
    }
)


@ROUTER.post("/runs", status_code=201)
def start_run(
    wish: Annotated[RunCreate, _WISH],
    caller: Runner,
    plane: PlaneDep,
    unit: UnitDep,
    idempotency_key: IdempotencyKey = None,
) -> Run:
    """Check a wish for a run and queue it."""
    return service.start(plane, unit, wish, caller.key_id, idempotency_key)


@ROUTER.get("/runs")
def list_runs(
    caller: Reader,
    unit: UnitDep,
    state: Annotated[RunState | None, Query()] = None,
    recipe: Annotated[str | None, Query(max_length=200)] = None,
    name: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[Run]:
    """Runs, newest first."""
    return service.page(unit.session, state=state, recipe=recipe, name=name, limit=limit, cursor=cursor)


@ROUTER.get("/runs/{run_id}")
def show_run(run_id: str, caller: Reader, unit: UnitDep) -> Run:
    """One run."""
    return service.show(unit.session, run_id)


@ROUTER.post("/runs/{run_id}/cancel")
def cancel_run(run_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep) -> Run:
    """Cancel: at once while no worker has the run, within one step otherwise."""
    return service.cancel(plane, unit, run_id)


@ROUTER.post("/runs/{run_id}/pause")
def pause_run(run_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep) -> Run:
    """Pause a running run within one step: its worker checkpoints it and is free for another."""
    return service.pause(plane, unit, run_id)


@ROUTER.post("/runs/{run_id}/resume")
def resume_run(
    run_id: str,
    caller: Runner,
    plane: PlaneDep,
    unit: UnitDep,
    step: Annotated[
        int | None, Query(ge=1, description="Of an older checkpoint to go on from; the newest are kept.")
    ] = None,
) -> Run:
    """Queue a paused, failed or cancelled run again; it goes on from its last checkpoint."""
    return service.resume(plane, unit, run_id, step)


@ROUTER.patch("/runs/{run_id}/teachers")
def refill_run(run_id: str, wish: Annotated[Refill, _REFILL], caller: Runner, plane: PlaneDep, unit: UnitDep) -> Run:
    """Have other teachers fill some of a run's roles; a worker that has it follows."""
    return refilling.refill(plane, unit, run_id, wish, caller.key_id)


@ROUTER.get(
    "/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Frames of id, event and data (an Event)"}},
)
async def watch_run(
    run_id: str,
    caller: Reader,
    plane: PlaneDep,
    last_event_id: Annotated[int, Header(ge=0, le=2**53 - 1, description="Go on after this event.")] = 0,
    follow: Annotated[bool, Query(description="Go on until the run has ended.")] = True,
) -> Response:
    """What happens to a run, as server-sent events."""
    await run_in_threadpool(_exists, plane, run_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    frames = stream(plane, run_id, last_event_id, follow)
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


@ROUTER.get(
    "/runs/{run_id}/metrics",
    response_model=Page[StepReport],
    responses={200: {"content": {"text/csv": {"example": "step,loss\n1,0.693\n"}}, "description": "Steps in order"}},
)
def read_metrics(
    run_id: str,
    caller: Reader,
    plane: PlaneDep,
    format: Annotated[Literal["json", "csv"], Query()] = "json",
    limit: Limit = MOST,
    cursor: Annotated[str | None, Query(max_length=300, description="A step: those after it are given.")] = None,
) -> Response | Page[StepReport]:
    """Steps in order with their metrics and ledgers: a page as JSON, or all as CSV."""
    if format == "csv":
        _exists(plane, run_id)
        headers = {"Content-Disposition": f'attachment; filename="{run_id}.csv"'}
        return StreamingResponse(readings.metrics_csv(plane.database, run_id), media_type="text/csv", headers=headers)
    with plane.database.unit(writes=False) as unit:
        return readings.metrics(unit.session, run_id, limit, cursor)


@ROUTER.get("/runs/{run_id}/samples")
def read_samples(
    run_id: str,
    caller: Reader,
    unit: UnitDep,
    step: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[Sample]:
    """Rollouts that were kept, with their per-token scores."""
    return readings.samples(unit.session, run_id, step, limit, cursor)


@ROUTER.get("/runs/{run_id}/evaluations")
def read_evaluations(run_id: str, caller: Reader, unit: UnitDep) -> tuple[Evaluation, ...]:
    """The student on held-out tasks, in order of step."""
    return readings.evaluations(unit.session, run_id)


def _exists(plane: Plane, run_id: str) -> None:
    with plane.database.unit(writes=False) as unit:
        history.get(unit.session, run_id)
