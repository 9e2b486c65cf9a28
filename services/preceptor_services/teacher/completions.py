"""`/v1/completions`, `/v1/chat/completions`, `/v1/models`: text, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from preceptor.errors import Invalid, NotFound, PreceptorError, ServerFault
from preceptor.wire.chat import WROTE
from preceptor_services.teacher.backends import Draw, Text
from preceptor_services.teacher.jobs import Job, Steps
from preceptor_services.teacher.openai import ChatWish, CompletionWish, Usage
from preceptor_services.teacher.scores import Teacher, caller_of
from preceptor_services.teacher.service import Service
from preceptor_services.teacher.shapes import ChatShape, CompletionShape, Shape
from preceptor_services.teacher.streams import started
from preceptor_services.teacher.writer import Piece, write

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1", tags=["text"])
PATHS = frozenset({"/v1/models", "/v1/completions", "/v1/chat/completions"})

_BROKE_OFF = "The teacher failed while it wrote; its log says why."


@router.get("/models")
def models(teacher: Teacher) -> dict[str, Any]:
    """The one model that this teacher is."""
    model = {
        "id": teacher.settings.teacher_name,
        "object": "model",
        "created": teacher.started,
        "owned_by": "preceptor",
    }
    return {"object": "list", "data": [model]}


@router.post("/completions", response_class=Response)
async def complete(request: Request, teacher: Teacher, wish: Annotated[CompletionWish, Body()]) -> Response:
    """Text after a prompt of text or ids."""
    text = _text(teacher, wish.model)
    prompts = await run_in_threadpool(_prompts, text, wish.prompt)
    shape = CompletionShape(teacher.settings.teacher_name, text, wish.logprobs)
    return await _answer(request, teacher, wish, prompts, wish.max_tokens, wish.logprobs or 0, shape)


@router.post("/chat/completions", response_class=Response)
async def chat(request: Request, teacher: Teacher, wish: Annotated[ChatWish, Body()]) -> Response:
    """The assistant's next message."""
    text = _text(teacher, wish.model)
    if wish.top_logprobs is not None and not wish.logprobs:
        raise Invalid("top_logprobs: is only given with logprobs = true.", field="top_logprobs")
    prompt = await run_in_threadpool(text.prompt_ids, wish.messages)
    limit = wish.max_completion_tokens or wish.max_tokens
    if limit is None:
        limit = max(1, min(teacher.settings.teacher_max_new_tokens, teacher.card.limits.max_tokens - len(prompt)))
    shape = ChatShape(teacher.settings.teacher_name, text, bool(wish.logprobs))
    return await _answer(request, teacher, wish, [prompt], limit, wish.top_logprobs or 0, shape)


@dataclass(frozen=True, slots=True)
class _Order:
    """One text to be written."""

    index: int
    prompt: Sequence[int]
    draw: Draw


async def _answer(
    request: Request,
    teacher: Service,
    wish: CompletionWish | ChatWish,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    top: int,
    shape: Shape,
) -> Response:
    _check(prompts, max_tokens, teacher)
    text, job = _text(teacher, wish.model), Job(caller=caller_of(request))
    seed = secrets.randbits(48) if wish.seed is None else wish.seed
    orders = [
        _Order(
            index,
            prompt,
            Draw(
                max_tokens=max_tokens,
                temperature=wish.temperature,
                top_p=wish.top_p,
                seed=(seed + index) % 2**63,
                top=top,
            ),
        )
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(wish.n))
    ]
    read = sum(len(prompt) for prompt in prompts)

    def pieces() -> Iterator[tuple[int, Piece]]:
        for order in orders:
            for piece in write(text, order.prompt, order.draw, wish.stop, job.check):
                teacher.meters.written.inc(len(piece.tokens))
                yield order.index, piece

    if wish.stream:
        usage = wish.stream_options is not None and wish.stream_options.include_usage
        events = started(teacher, job, pieces)
        stream = _stream(job, events, shape, read, usage)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def collected() -> Generator[None, None, tuple[int, list[tuple[int, Piece]]]]:
        found: list[tuple[int, Piece]] = []
        version = teacher.backend.about.weights_version  # which stays until what has begun is finished
        for each in pieces():
            found.append(each)
            yield  # others may have a turn
        return version, found

    done = await teacher.run(request, job, Steps(collected))
    version, written = done.result
    choices = [[piece for index, piece in written if index == order.index] for order in orders]
    whole = shape.whole(choices, _usage(read, [piece for _, piece in written]))
    return JSONResponse({**whole, "system_fingerprint": f"{WROTE}{version}"})


async def _stream(
    job: Job, events: asyncio.Queue[tuple[int, Piece] | BaseException | None], shape: Shape, read: int, usage: bool
) -> AsyncIterator[str]:
    """Server-sent events, one a piece. Closing the stream ends the writing at its next token."""
    sent: list[Piece] = []
    try:
        while (each := await events.get()) is not None:
            if isinstance(each, BaseException):
                log.error("a stream broke off", exc_info=each)
                problem = each.problem if isinstance(each, PreceptorError) else ServerFault(_BROKE_OFF).problem
                yield _event({"error": {"message": problem.detail, **problem.model_dump(exclude_none=True)}})
                return
            sent.append(each[1])
            yield _event(shape.part(*each))
        if usage:
            yield _event(shape.closing(_usage(read, sent)))
        yield "data: [DONE]\n\n"
    finally:
        job.gone.set()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, allow_nan=False)}\n\n"


def _usage(read: int, pieces: Sequence[Piece]) -> Usage:
    written = sum(len(piece.tokens) for piece in pieces)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _text(teacher: Service, model: str) -> Text:
    name, text = teacher.settings.teacher_name, teacher.backend.text
    if text is None:
        raise Invalid("This teacher scores and does not write.", field="model", remedy="Ask POST /v1/score.")
    if model not in (name, teacher.backend.about.model):
        raise NotFound(f"model: '{model[:100]}' is not here; this teacher is '{name}'.", field="model")
    return text


def _prompts(text: Text, prompt: str | Sequence[int | str | list[int]]) -> list[list[int]]:
    """Ids of every prompt, where one or several may have been given, as text or as ids."""
    if isinstance(prompt, str):
        return [text.encode(prompt)]
    ids = [each for each in prompt if isinstance(each, int)]
    if ids or not prompt:
        return [ids]
    return [text.encode(each) if isinstance(each, str) else each for each in prompt if not isinstance(each, int)]


def _check(prompts: Sequence[Sequence[int]], max_tokens: int, teacher: Service) -> None:
    """Raises Invalid where a prompt is empty, beyond the vocabulary, or too long with what is to be written."""
    limits, vocabulary = teacher.card.limits, teacher.card.tokenizer.vocab_size
    if max_tokens > teacher.settings.teacher_max_new_tokens:
        most = teacher.settings.teacher_max_new_tokens
        raise Invalid(f"max_tokens: {max_tokens} is more than this teacher writes, {most}.", field="max_tokens")
    for prompt in prompts:
        if not prompt:
            raise Invalid("prompt: is empty; a first token needs one before it.", field="prompt")
        if max(prompt) >= vocabulary:
            raise Invalid(f"prompt: the id {max(prompt)} is beyond this vocabulary of {vocabulary}.", field="prompt")
        if len(prompt) + max_tokens > limits.max_tokens:
            raise Invalid(
                f"max_tokens: a prompt of {len(prompt)} tokens and {max_tokens} to be written are more than the "
                f"{limits.max_tokens} that this model reads.",
                field="max_tokens",
            )
