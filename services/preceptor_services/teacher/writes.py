"""`POST /v1/write`: rollouts for a run, token ids in and out, a line of JSON as soon as one is finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response, StreamingResponse

from preceptor.errors import Invalid, NotFound, Overloaded, PreceptorError, ServerFault
from preceptor.wire.write import BrokenOff, WriteRequest, Written
from preceptor_services.teacher.backends import Writes, writer_of
from preceptor_services.teacher.jobs import Abandoned, Job
from preceptor_services.teacher.scores import Teacher, caller_of
from preceptor_services.teacher.service import Service, watched
from preceptor_services.teacher.streams import started

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1", tags=["rollouts"])
LINES = "application/x-ndjson"


@router.post("/write", response_class=Response)
async def write(request: Request, teacher: Teacher, wanted: Annotated[WriteRequest, Body()]) -> Response:
    """Completions of prompts, in the order in which they are finished: docs/protocol.md."""
    backend = writer_of(teacher.backend)
    if backend is None:
        raise NotFound(
            f"This teacher writes no rollouts ({teacher.backend.about.engine}).",
            remedy="Ask one whose card says `writes`: the hf backend, or vLLM with --enable-scale-out.",
        )
    _check(wanted, teacher, backend)
    teacher.check_version(wanted.weights_version)
    job = Job(caller=caller_of(request))

    def written() -> Iterator[Sequence[Written]]:
        teacher.check_version(wanted.weights_version)  # weights may have moved while it waited; from here on none do
        for finished in backend.write(wanted, job.check):
            teacher.meters.written.inc(sum(len(each.token_ids) for each in finished))
            yield finished

    came = started(teacher, job, written)
    async with watched(request, job):
        first = await _next(came, job)
    return StreamingResponse(_lines(request, came, first, job), media_type=LINES, headers={"Cache-Control": "no-store"})


Came = asyncio.Queue[Sequence[Written] | BaseException | None]


async def _next(came: Came, job: Job) -> Sequence[Written] | None:
    """The first completions; None: there are none. What went wrong before any is this request's own error."""
    try:
        while (each := await came.get()) is not None:
            if isinstance(each, Abandoned):
                raise Overloaded(f"The request was given up: {each}.") from each
            if isinstance(each, BaseException):
                raise each
            if each:
                return each
    except asyncio.CancelledError:
        job.gone.set()
        raise
    return None


async def _lines(request: Request, came: Came, first: Sequence[Written] | None, job: Job) -> AsyncIterator[str]:
    """A line a completion. Whoever hangs up ends the writing at its next token, not at its next line."""
    each: Sequence[Written] | BaseException | None = first
    try:
        async with watched(request, job):
            while each is not None:
                if isinstance(each, Abandoned):
                    return  # nobody reads any more
                if isinstance(each, BaseException):
                    log.error("rollouts broke off", exc_info=each)
                    fault = ServerFault("The teacher failed while it wrote; its log says why.")
                    problem = (each if isinstance(each, PreceptorError) else fault).problem
                    yield BrokenOff(error=problem).model_dump_json(exclude_none=True) + "\n"
                    return
                for written in each:
                    yield written.model_dump_json() + "\n"
                each = await came.get()
    finally:
        job.gone.set()


def _check(wanted: WriteRequest, teacher: Service, backend: Writes) -> None:
    """Raises Invalid where a prompt is beyond the vocabulary, or too long with what is to be written."""
    limits, vocabulary = teacher.card.limits, teacher.card.tokenizer.vocab_size
    most = teacher.settings.teacher_max_new_tokens
    if backend.untempered and wanted.temperature not in (0.0, 1.0):
        raise Invalid(
            f"temperature: {teacher.backend.about.engine} states untempered log-probabilities, which are not those "
            f"that tokens are drawn with at {wanted.temperature:g}.",
            field="temperature",
            remedy="Ask for 1, or for 0: always the likeliest token.",
        )
    for index, prompt in enumerate(wanted.prompts):
        if max(prompt) >= vocabulary:
            raise Invalid(
                f"prompts.{index}: the id {max(prompt)} is beyond this vocabulary of {vocabulary}.", field="prompts"
            )
    for index, job in enumerate(wanted.jobs):
        length = len(wanted.prompts[job.prompt])
        if job.max_tokens > most:
            raise Invalid(f"jobs.{index}.max_tokens: is more than this teacher writes, {most}.", field="jobs")
        if length + job.max_tokens > limits.max_tokens:
            raise Invalid(
                f"jobs.{index}.max_tokens: a prompt of {length} tokens and {job.max_tokens} to be written are more "
                f"than the {limits.max_tokens} that this model reads.",
                field="jobs",
            )
