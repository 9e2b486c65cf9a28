"""What is said of a failure that has nothing to do with training: a worker without torch says it, too."""

from __future__ import annotations

from pydantic import ValidationError

from preceptor.errors import PROBLEM_TYPES, PreceptorError
from preceptor.wire.common import Problem


def told(error: Exception, worker: str) -> Problem | None:
    """Cause and remedy of an error that brings its own, or that another version of Preceptor has caused; None: it is
    neither."""
    if isinstance(error, PreceptorError):
        known = error.problem
        return known.model_copy(update={"remedy": known.remedy or look(worker)})
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return Problem(
            type=PROBLEM_TYPES + "another-version",
            title="Nothing that this worker knows",
            detail=f"The {error.title} is not one that this worker knows: {where}: {first['msg']}.",
            remedy=f"Install the same version of Preceptor on the worker {worker} as on the control plane.",
            status=500,
        )
    return None


def fault(error: Exception, worker: str, *, of: str, what: str) -> Problem:
    """An error that nobody foresaw: a fault `of` a part of ours, and not of `what` was being done."""
    return Problem(
        type=PROBLEM_TYPES + f"{of}-fault",
        title=f"The {of} failed",
        detail=f"{type(error).__name__}: {sentence(error)}",
        remedy=f"This is a fault of the {of}, not of the {what}. {look(worker)}",
        status=500,
    )


def look(worker: str) -> str:
    """Where to look for more."""
    return f"The log of worker {worker} has the details."


def sentence(error: Exception) -> str:
    """What an error says, in one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 2000 else f"{text[:2000]}..."
