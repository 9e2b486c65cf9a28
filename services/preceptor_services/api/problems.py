"""Every error as RFC 9457 problem details: one sentence that names the field and says what to do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from preceptor.errors import Conflict, Invalid, NotAuthorised, Overloaded, PreceptorError, ServerFault
from preceptor.wire.common import Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
SHOWN = 100
"""Characters of a wrong value that an error repeats."""


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The problem as an answer."""
    extra = dict(headers or {})
    if problem.status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = "Bearer"
    if problem.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        extra.setdefault("Retry-After", str(RETRY_SECONDS))
    return Response(
        problem.model_dump_json(exclude_none=True), status_code=problem.status, media_type=MEDIA_TYPE, headers=extra
    )


def invalid(errors: Sequence[Any], *, prefix: str = "", skip: int = 0) -> Invalid:
    """The error for what pydantic found: the first complaint, as a sentence.

    `prefix` goes before the field's path, of which the first `skip` parts are left out.
    """
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"][skip:])
    field = ".".join(part for part in (prefix, path) if part) or None
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "missing":
        said = "is missing" if field else "The body is missing"
        detail = f"{field} {said}." if field else f"{said}."
    elif first["type"] == "extra_forbidden":
        detail = f"{field}: there is no such field."
    else:
        given = first.get("input")
        shown = repr(given) if isinstance(given, str | int | float | bool) or given is None else type(given).__name__
        detail = f"{field or 'the body'}: {message} (got {shown[:SHOWN]})."
    rest = len(errors) - 1
    remedy = f"Correct it; {rest} more problem{'s' * (rest > 1)} would follow." if rest else None
    return Invalid(detail, field=field, remedy=remedy)


class Refused(HTTPException):
    """An error on the way through the framework, which lets only HTTPExceptions pass while it reads a body."""

    def __init__(self, error: PreceptorError, status: int | None = None) -> None:
        problem = error.problem
        self.problem = problem if status is None else problem.model_copy(update={"status": status})
        super().__init__(self.problem.status, self.problem.detail)


def _preceptor_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PreceptorError)
    headers = {}
    if isinstance(error, Overloaded) and error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return problem_response(error.problem, headers)


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(invalid(error.errors(), skip=1).problem)  # the first part says body, query, path or header


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        return problem_response(error.problem)
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
    return problem_response(problem, dict(error.headers or {}))


def _database_away(request: Request, error: Exception) -> Response:
    log.error("The database did not answer: %s", error)
    return problem_response(Overloaded("The database did not answer in time.", remedy="Try again.").problem)


def _database_conflict(request: Request, error: Exception) -> Response:
    log.warning("Two requests collided: %s", error)
    conflict = Conflict(
        "Another request changed the same thing at the same time.", remedy="Look again, then try again."
    )
    return problem_response(conflict.problem)


def _database_refused(request: Request, error: Exception) -> Response:
    log.warning("The database cannot store a value: %s", error)
    return problem_response(Invalid("The request holds a value that the database cannot store.").problem)


def _bug(request: Request, error: Exception) -> Response:
    fault = ServerFault("The control plane failed on this request; its log says why.", remedy="Report it with the log.")
    return problem_response(fault.problem)


def install(app: FastAPI) -> None:
    """Have the application answer every error as a problem."""
    app.add_exception_handler(PreceptorError, _preceptor_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(IntegrityError, _database_conflict)
    app.add_exception_handler(DataError, _database_refused)
    app.add_exception_handler(Exception, _bug)


def not_authorised(detail: str, remedy: str, *, status: int = 401) -> NotAuthorised:
    """401 for a key that is missing or unknown, 403 for one whose scope is too small."""
    error = NotAuthorised(detail, remedy=remedy)
    error.problem = error.problem.model_copy(update={"status": status})
    return error
