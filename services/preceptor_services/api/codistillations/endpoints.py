"""Pairs over HTTP: for whoever starts one, and for the workers that train its two sides."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Query

from preceptor.wire.codistillations import Codistillation, CodistillationCreate, Record
from preceptor.wire.common import Page
from preceptor.wire.pairs import PeerServing, PublicationReport, Published
from preceptor.wire.runs import LeaseStatus
from preceptor_services.api.codistillations import publishing, service
from preceptor_services.api.codistillations.record import STEPS, record
from preceptor_services.api.deps import LIMIT, Cursor, IdempotencyKey, Limit, PlaneDep, Reader, Runner, UnitDep, router

ROUTER = router("codistillations")
WORKER_ROUTER = router("worker")
_STUDENT = "sha256:" + "3f" * 32
_SIDE = {"recipe": "peer_opd", "teachers": {"start": "base"}, "data": {"kind": "task", "task": "two_domains"}}
_WISH = Body(
    openapi_examples={
        "two specialists": {
            "value": {
                "name": "letters-and-maths",
                "a": {"run": {**_SIDE, "name": "of-letters", "student": _STUDENT}, "teaches": ["letters"]},
                "b": {"run": {**_SIDE, "name": "of-maths", "student": _STUDENT}, "teaches": ["maths"]},
                "policy": {"max_lag": 2, "on_lag": "wait", "on_loss": "alone"},
            }
        }
    }
)
_VERSION = Body(
    openapi_examples={
        "after step 41": {
            "value": {
                "fence": 1,
                "publication": {
                    "version": 10_000_041,
                    "step": 41,
                    "weights_hash": _STUDENT,
                    "outcomes": {"letters": {"right": 30, "wrong": 2}},
                },
            }
        }
    }
)


@ROUTER.post("/codistillations", status_code=201)
def start_codistillation(
    wish: Annotated[CodistillationCreate, _WISH],
    caller: Runner,
    plane: PlaneDep,
    unit: UnitDep,
    idempotency_key: IdempotencyKey = None,
) -> Codistillation:
    """Check a wish for a pair and queue its two runs."""
    return service.start(plane, unit, wish, caller.key_id, idempotency_key)


@ROUTER.get("/codistillations")
def list_codistillations(
    caller: Reader, unit: UnitDep, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[Codistillation]:
    """Pairs, newest first."""
    return service.page(unit.session, limit, cursor)


@ROUTER.get("/codistillations/{pair_id}")
def show_codistillation(pair_id: str, caller: Reader, unit: UnitDep) -> Codistillation:
    """One pair."""
    return service.show(unit.session, pair_id)


@ROUTER.get("/codistillations/{pair_id}/record")
def read_record(
    pair_id: str,
    caller: Reader,
    unit: UnitDep,
    limit: Annotated[int, Query(ge=1, le=STEPS, description="How many steps of either side at most.")] = STEPS,
    cursor: Cursor = None,
) -> Record:
    """Both sides' curves by domain, gates, what each gave the other, and whether all of that was published: of their
    first steps, or of those after `cursor`. Pages add up to the whole record."""
    return record(unit.session, pair_id, limit, cursor)


@ROUTER.post("/codistillations/{pair_id}/stop")
def stop_codistillation(pair_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep) -> Codistillation:
    """Stop both sides within one step each, with checkpoints."""
    return service.stop(plane, unit, pair_id)


@ROUTER.post("/codistillations/{pair_id}/resume")
def resume_codistillation(pair_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep) -> Codistillation:
    """Queue again what has stopped of it; each side goes on from its last checkpoint."""
    return service.resume(plane, unit, pair_id)


@WORKER_ROUTER.put("/runs/{run_id}/peer")
def serve_peer(run_id: str, serving: PeerServing, caller: Runner, plane: PlaneDep, unit: UnitDep) -> LeaseStatus:
    """Say where the run's student answers its peer. 409 where the lease has ended."""
    return publishing.serve(plane, unit, run_id, serving)


@WORKER_ROUTER.post("/runs/{run_id}/publications")
def publish_version(
    run_id: str, report: Annotated[PublicationReport, _VERSION], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> LeaseStatus:
    """Record a version of the run's student, before it answers anybody. 409 where the number is taken."""
    return publishing.publish(plane, unit, run_id, report)


@WORKER_ROUTER.get("/runs/{run_id}/publications")
def list_publications(
    run_id: str, caller: Reader, unit: UnitDep, after: Annotated[int, Query(ge=0, le=2**53 - 1)] = 0
) -> Published:
    """Where the run's student answers, and its versions above `after`, in order."""
    return publishing.published(unit.session, run_id, after)
