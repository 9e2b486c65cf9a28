"""`/v1/card`, `/v1/head`, `/v1/score`: the score protocol."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from preceptor.errors import Invalid, NotFound, TooLarge
from preceptor.frames import decode_request, encode_scores
from preceptor.limits import check_fits
from preceptor.tensors import CONTENT_TYPE
from preceptor.twins import request_from_json, scores_to_json
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card, Support
from preceptor_services.teacher.head import delta_response, head_response
from preceptor_services.teacher.jobs import Done, Job
from preceptor_services.teacher.service import Scored, Service

JSON = "application/json"
router = APIRouter(prefix="/v1", tags=["scores"])


def service_of(request: Request) -> Service:
    """The teacher that this application is."""
    return request.app.state.service


def caller_of(request: Request) -> str:
    """Whom a request's time is counted for: the machine it comes from."""
    return "" if request.client is None else request.client.host


Teacher = Annotated[Service, Depends(service_of)]


@router.get("/card")
def card(teacher: Teacher) -> Card:
    """What the teacher says of itself."""
    return teacher.card


@router.get("/head", response_class=Response)
def head(
    request: Request,
    teacher: Teacher,
    hash: Annotated[str | None, Query(description="The head that a stamp names; else the live one.")] = None,
    since: Annotated[str | None, Query(description="A head that the caller has: what has changed will do.")] = None,
) -> Response:
    """The output projection as a safetensors frame. `ETag` is its hash; ranges are served."""
    found, pieces = teacher.heads.find(hash)
    if since is not None and (delta := teacher.heads.delta(since, found)) is not None:
        return delta_response(delta)
    return head_response(request, pieces, found)


@router.get("/tokenizer", response_class=Response)
def tokenizer(request: Request, teacher: Teacher) -> Response:
    """The tokenizer as JSON, for students with another one. `ETag` is its hash, which the card states."""
    file = teacher.backend.about.tokenizer_file
    if file is None:
        raise NotFound("This teacher has no tokenizer to give.", remedy="Train a student that shares its ids.")
    return head_response(request, [file.content], file.hash, JSON)


@router.post("/score", response_class=Response)
async def score(request: Request, teacher: Teacher) -> Response:
    """Scores for completions behind contexts, as a safetensors frame or as JSON: docs/protocol.md."""
    arrived = time.monotonic()
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content not in (CONTENT_TYPE, JSON):
        raise _status(415, Invalid(f"Content-Type: '{content[:60]}' is neither {CONTENT_TYPE} nor {JSON}."))
    answer_in_json = _wants_json(request.headers.get("accept", ""), content)
    body = await request.body()
    teacher.meters.received.inc(len(body))
    wanted = await run_in_threadpool(_read, body, content, teacher)
    deadline = None if wanted.deadline_ms is None else arrived + wanted.deadline_ms / 1000
    job = Job(deadline, caller=caller_of(request))
    done = await teacher.run(request, job, teacher.scoring(wanted, job))
    answer = await run_in_threadpool(_write, wanted, done, teacher, answer_in_json)
    teacher.meters.sequences.inc(len(wanted.completions))
    teacher.meters.tokens.inc(len(done.result.numbers.logprob_T))
    teacher.meters.sent.inc(len(answer))
    return Response(answer, media_type=JSON if answer_in_json else CONTENT_TYPE)


def _read(body: bytes, content: str, teacher: Service) -> ScoreRequest:
    """The request, if this teacher can serve it. Raises what the protocol says: 400, 409, 413, 422."""
    try:
        wanted = request_from_json(body) if content == JSON else decode_request(body)
    except Invalid as error:
        if (error.field or "").endswith("request.support"):
            offered = ", ".join(Support(each) for each in teacher.backend.about.supports)
            raise _status(
                422, Invalid(f"{error.problem.detail} This teacher offers {offered}.", field="support")
            ) from None
        raise
    try:
        check_fits(wanted, teacher.card)
    except TooLarge as error:
        raise _status(413, error) from None
    teacher.check_version(wanted.weights_version)
    return wanted


def _write(wanted: ScoreRequest, done: Done[Scored], teacher: Service, in_json: bool) -> bytes:
    scores = Scores.stamped(done.result.numbers, teacher.stamp(wanted, done))
    return scores_to_json(scores, wanted).encode() if in_json else encode_scores(scores, wanted)


def _wants_json(accept: str, content: str) -> bool:
    """What the caller accepts; where it does not say, what it sent."""
    accepted = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    for each in accepted:
        if each in (JSON, CONTENT_TYPE):
            return each == JSON
    return content == JSON


def _status(status: int, error: Invalid | TooLarge) -> Invalid | TooLarge:
    error.problem = error.problem.model_copy(update={"status": status})
    return error
