"""Every error as problem details: what all services share, and what a database may have to say."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from starlette.responses import Response

from preceptor.errors import Conflict, Invalid, Overloaded
from preceptor_services import problems
from preceptor_services.problems import problem_response

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Have the application answer every error as a problem."""
    problems.install(app, "The control plane")
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(IntegrityError, _database_conflict)
    app.add_exception_handler(DataError, _database_refused)


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
