"""What every HTTP service shares: errors as RFC 9457 problem details, and bodies that end at a limit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive

from preceptor.errors import NotAuthorised, Overloaded, PreceptorError, ServerFault, TooLarge
from preceptor.validation import invalid as invalid
from preceptor.wire.common import Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
Answer = tuple[Problem, dict[str, str]]
"""A problem and the headers that go with it."""


def problem_response(problem: Problem, headers: dict[str, str] | None = None, *, message: bool = False) -> Response:
    """The problem as an answer. `message` adds the member that OpenAI's clients read, as RFC 9457 lets one."""
    extra = dict(headers or {})
    body = problem.model_dump(mode="json", exclude_none=True)
    if message:
        body["message"] = problem.detail
    if problem.status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = "Bearer"
    if problem.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        extra.setdefault("Retry-After", str(RETRY_SECONDS))
    return Response(json.dumps(body), status_code=problem.status, media_type=MEDIA_TYPE, headers=extra)


class Refused(HTTPException):
    """An error on the way through the framework, which lets only HTTPExceptions pass while it reads a body."""

    def __init__(self, error: PreceptorError, status: int | None = None) -> None:
        problem = error.problem
        self.problem = problem if status is None else problem.model_copy(update={"status": status})
        super().__init__(self.problem.status, self.problem.detail)


def not_authorised(detail: str, remedy: str, *, status: int = 401) -> NotAuthorised:
    """401 for a key that is missing or unknown, 403 for one whose scope is too small."""
    error = NotAuthorised(detail, remedy=remedy)
    error.problem = error.problem.model_copy(update={"status": status})
    return error


def too_large(limit: int) -> TooLarge:
    """The error for a body beyond the limit."""
    return TooLarge(f"The body is larger than the {limit} bytes that this endpoint takes.", remedy="Send less at once.")


def check_length(length: str | None, limit: int) -> None:
    """Raises TooLarge where the announced length of a body is beyond the limit."""
    if length is not None and length.isdigit() and int(length[:20]) > limit:
        raise too_large(limit)


def bounded(receive: Receive, limit: int) -> Receive:
    """`receive` that stops at the limit: a body sent in chunks states no length beforehand."""
    seen = 0

    async def read() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise Refused(too_large(limit))
        return message

    return read


def install(app: FastAPI, service: str, openai: Collection[str] = ()) -> None:
    """Have the application answer every error as a problem.

    service: what a bug's sentence calls it. openai: the paths whose errors OpenAI's clients must be able to read.
    """

    def answering(handle: Callable[[Request, Exception], Answer]) -> Callable[[Request, Exception], Response]:
        def answer(request: Request, error: Exception) -> Response:
            problem, headers = handle(request, error)
            return problem_response(problem, headers, message=request.url.path in openai)

        return answer

    def bug(request: Request, error: Exception) -> Answer:
        fault = ServerFault(f"{service} failed on this request; its log says why.", remedy="Report it with the log.")
        return fault.problem, {}

    app.add_exception_handler(PreceptorError, answering(_preceptor_error))
    app.add_exception_handler(RequestValidationError, answering(_validation_error))
    app.add_exception_handler(HTTPException, answering(_http_error))
    app.add_exception_handler(Exception, answering(bug))


def _preceptor_error(request: Request, error: Exception) -> Answer:
    assert isinstance(error, PreceptorError)
    headers = {}
    if isinstance(error, Overloaded) and error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return error.problem, headers


def _validation_error(request: Request, error: Exception) -> Answer:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors(), skip=1).problem, {}  # the first part says body, query, path or header


def _http_error(request: Request, error: Exception) -> Answer:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        return error.problem, {}
    title = HTTPStatus(error.status_code).phrase
    detail = str(error.detail)
    remedy = None
    if error.status_code == HTTPStatus.NOT_FOUND and detail == title:
        detail = f"There is nothing at {request.url.path[:200]}."
        remedy = "GET /openapi.json lists what there is."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not what {request.url.path[:200]} is for."
    problem = Problem(
        type=f"/problems/{title.lower().replace(' ', '-')}",
        title=title,
        detail=detail,
        remedy=remedy,
        status=error.status_code,
    )
    return problem, dict(error.headers or {})
