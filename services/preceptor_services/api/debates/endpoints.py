"""Debates over HTTP: for whoever has a question, and for the worker that holds the debate."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Path, Query

from preceptor.debates.templates import BUILT_IN
from preceptor.wire.common import STEP_LIMIT, Page
from preceptor.wire.debate_reports import (
    DebateFinish,
    DebateGrant,
    HeldReport,
    KnownDebate,
    KnownWish,
    TurnsReport,
)
from preceptor.wire.debates import (
    Debate,
    DebateCreate,
    DebateState,
    DebateTemplateCreate,
    StoredTemplate,
)
from preceptor.wire.runs import Heartbeat, LeaseStatus
from preceptor_services.api.debates import held, leases, service, templates
from preceptor_services.api.deps import (
    LIMIT,
    Cursor,
    Fence,
    IdempotencyKey,
    Limit,
    PlaneDep,
    Reader,
    Runner,
    Taker,
    UnitDep,
    router,
)

ROUTER = router("debates")
_WISH = Body(
    openapi_examples={
        "blind": {"value": {"question": "What is 17 * 23?", "teachers": ["sums", "steps"]}},
        "sighted": {
            "value": {
                "question": "What is 17 * 23?",
                "attempt": "17 * 23 = 381",
                "teachers": ["sums", "steps", "sceptic"],
                "template": "panel",
                "overrides": {"rounds": 2},
                "budget": {"tokens": 8000, "seconds": 120},
            }
        },
    }
)
_TEMPLATE = Body(
    openapi_examples={
        "short": {
            "value": {
                "name": "short",
                "template": {
                    "ask": "{question}\n{debate}\nReply with <argument>, </argument>, <confidence>, </confidence>.",
                    "ask_sighted": "{question}\nTried: {attempt}\n{debate}\n"
                    "Reply with <argument>, </argument>, <confidence>, </confidence>.",
                },
            }
        }
    }
)
_TURN = {"round": 1, "debater": "ann", "argument": "The sign is lost in the second line.", "confidence": 90}
_TURNS = Body(openapi_examples={"a turn": {"value": {"fence": 1, "turns": [_TURN]}}})
_FINISH = Body(openapi_examples={"cancelled": {"value": {"fence": 1, "state": "cancelled"}}})
_VOICE = {"role": "first", "teacher": "sums", "model": "sums-7b", "engine": "hf 5.0", "weights_version": 0}
_RUN_WISH = {
    "wish": {"question": "What is 17 * 23?", "attempt": "381", "teachers": ["first"]},
    "template": {**BUILT_IN["discussion"].model_dump(), "rounds": 1},
    "voices": {"first": _VOICE},
}
_PLACE = {"step": 1, "context": "debate", "task": "5d41402abc4b2a76b9719d911017c592", "rollout": 0}
_SAID = [{**_TURN, "debater": "first", "answer": "391"}]
_HELD = Body(
    openapi_examples={"a debate": {"value": {"fence": 1, "debates": [{**_PLACE, **_RUN_WISH, "turns": _SAID}]}}}
)
_KNOWN = Body(openapi_examples={"a debate": {"value": {"wishes": [_RUN_WISH]}}})
Pinned = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[0-9]{1,9})?$")]


@ROUTER.post("/debates", status_code=201)
def start_debate(
    wish: Annotated[DebateCreate, _WISH],
    caller: Runner,
    plane: PlaneDep,
    unit: UnitDep,
    idempotency_key: IdempotencyKey = None,
) -> Debate:
    """Check a wish for a debate and queue it. The same debate, held before, is the answer at once (`cached_from`)."""
    return service.start(plane, unit, wish, caller.key_id, idempotency_key)


@ROUTER.get("/debates")
def list_debates(
    caller: Reader,
    unit: UnitDep,
    state: Annotated[DebateState | None, Query()] = None,
    run: Annotated[str | None, Query(max_length=100)] = None,
    step: Annotated[int | None, Query(ge=1, le=STEP_LIMIT)] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[Debate]:
    """Debates, newest first, without what was said: those that were asked for, or with `run` those that this run held
    for itself, of one `step` or of all."""
    return service.page(unit.session, state=state, run=run, step=step, limit=limit, cursor=cursor)


@ROUTER.get("/debates/{debate_id}")
def show_debate(debate_id: str, caller: Reader, unit: UnitDep) -> Debate:
    """One debate, with what was said so far."""
    return service.show(unit.session, debate_id)


@ROUTER.post("/debates/{debate_id}/cancel")
def cancel_debate(debate_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep) -> Debate:
    """Cancel: at once while no worker has the debate, within a heartbeat otherwise."""
    return service.cancel(plane, unit, debate_id)


@ROUTER.post("/debate-templates", status_code=201)
def store_debate_template(
    wish: Annotated[DebateTemplateCreate, _TEMPLATE], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> StoredTemplate:
    """Store a template: the next version under its name. Versions never change."""
    return templates.store(unit.session, wish, plane.clock())


@ROUTER.get("/debate-templates")
def list_debate_templates(caller: Reader, unit: UnitDep) -> tuple[StoredTemplate, ...]:
    """All versions of all templates, by name."""
    return templates.every(unit.session)


@ROUTER.get("/debate-templates/{pinned}")
def show_debate_template(pinned: Pinned, caller: Reader, unit: UnitDep) -> StoredTemplate:
    """A template, as `name@version`, or `name` for its latest version."""
    return templates.find(unit.session, pinned)


@ROUTER.post("/debates/{debate_id}/lease")
def take_debate(debate_id: str, wish: Taker, caller: Runner, plane: PlaneDep, unit: UnitDep) -> DebateGrant:
    """For a worker: take the right to hold a debate. 409 where another has it, or there is nothing to do."""
    return leases.take(plane, unit, debate_id, wish.worker)


@ROUTER.put("/debates/{debate_id}/lease")
def keep_debate(debate_id: str, beat: Heartbeat, caller: Runner, plane: PlaneDep, unit: UnitDep) -> LeaseStatus:
    """For a worker: a heartbeat. 409 where the lease has ended."""
    return leases.beat(plane, unit, debate_id, beat.fence)


@ROUTER.delete("/debates/{debate_id}/lease", status_code=204)
def release_debate(debate_id: str, caller: Runner, plane: PlaneDep, unit: UnitDep, fence: Fence) -> None:
    """For a worker: give the lease back. The debate is queued again, for any worker."""
    leases.release(plane, unit, debate_id, fence)


@ROUTER.post("/debates/{debate_id}/turns")
def record_turns(
    debate_id: str, report: Annotated[TurnsReport, _TURNS], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> LeaseStatus:
    """For a worker: record what was said. What is recorded already is left as it is."""
    return leases.record(plane, unit, debate_id, report)


@ROUTER.post("/runs/{run_id}/debates")
def record_debates(
    run_id: str, report: Annotated[HeldReport, _HELD], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> LeaseStatus:
    """For a worker: record debates that its run has held. What is recorded already is left as it is."""
    return held.record(plane, unit, run_id, report, caller.key_id)


@ROUTER.post("/runs/{run_id}/debates/known")
def known_debates(
    run_id: str, wish: Annotated[KnownWish, _KNOWN], caller: Runner, unit: UnitDep
) -> tuple[KnownDebate | None, ...]:
    """For a worker: which of these debates were held before, one answer each. Its run then need not hold them."""
    return held.known(unit.session, run_id, wish)


@ROUTER.post("/debates/{debate_id}/finish")
def finish_debate(
    debate_id: str, finish: Annotated[DebateFinish, _FINISH], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> Debate:
    """For a worker: end the debate and the lease."""
    return leases.finish(plane, unit, debate_id, finish)
