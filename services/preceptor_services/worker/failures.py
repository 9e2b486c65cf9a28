"""What is said of a run that failed: every exception that leaves the loop is classified here, once, into a Problem."""

from __future__ import annotations

from errno import ENOSPC

import torch
from pydantic import ValidationError

from preceptor.errors import PROBLEM_TYPES, PreceptorError
from preceptor.wire.common import Problem
from preceptor_trainer.checkpoint import CheckpointError

CANNOT_TRAIN = PROBLEM_TYPES + "cannot-train"
"""A failure that a resume would run into again."""


def problem_of(error: Exception, *, step: int, checkpoint_step: int | None, worker: str) -> Problem:
    """Cause and remedy of a failure in `step`; a resume goes on at `checkpoint_step` (None: at the beginning)."""
    return in_step(cause_of(error, worker), step, checkpoint_step)


def in_step(cause: Problem, step: int, checkpoint_step: int | None, whose: str = "") -> Problem:
    """The same, with where it happened (`whose` it was, too) and what a resume would do."""
    resume = "" if cause.type == CANNOT_TRAIN else f" `preceptor runs resume` then goes on {_from(checkpoint_step)}."
    detail = f"Step {step}: {whose}{cause.detail}"
    return cause.model_copy(update={"detail": detail, "remedy": f"{cause.remedy or ''}{resume}".strip()})


def cause_of(error: Exception, worker: str) -> Problem:
    """Cause and remedy of a failure, wherever it happened."""
    if isinstance(error, PreceptorError):
        known = error.problem
        return known.model_copy(update={"remedy": known.remedy or _look(worker)})
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return Problem(
            type=PROBLEM_TYPES + "another-version",
            title="Not a run that this worker knows",
            detail=f"The {error.title} is not one that this worker knows: {where}: {first['msg']}.",
            remedy=f"Install the same version of Preceptor on the worker {worker} as on the control plane.",
            status=500,
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Problem(
            type=PROBLEM_TYPES + "out-of-memory",
            title="Out of memory",
            detail=f"The worker {worker} ran out of memory: {_sentence(error)}",
            remedy="Lower training.microbatch_tokens or training.batch, or use a larger machine.",
            status=500,
        )
    if isinstance(error, FloatingPointError):
        return Problem(
            type=PROBLEM_TYPES + "diverged",
            title="Training diverged",
            detail=_sentence(error),
            remedy="Lower training.learning_rate or training.clip_norm, and start again.",
            status=500,
        )
    if isinstance(error, CheckpointError) or (isinstance(error, OSError) and error.errno == ENOSPC):
        return Problem(
            type=PROBLEM_TYPES + "cannot-write",
            title="The worker's disk",
            detail=_sentence(error),
            remedy=f"Make room on the worker {worker}, or correct its folder (PRECEPTOR_CACHE_DIR).",
            status=507,
        )
    if isinstance(error, ValueError | OSError):
        return Problem(
            type=CANNOT_TRAIN,
            title="The run cannot be trained as it is",
            detail=_sentence(error),
            remedy=f"Correct what it names and start the run again. {_look(worker)}",
            status=422,
        )
    return Problem(
        type=PROBLEM_TYPES + "trainer-fault",
        title="The trainer failed",
        detail=f"{type(error).__name__}: {_sentence(error)}",
        remedy=f"This is a fault of the trainer, not of the run. {_look(worker)}",
        status=500,
    )


def _look(worker: str) -> str:
    return f"The log of worker {worker} has the details."


def _from(checkpoint_step: int | None) -> str:
    return "from the beginning" if checkpoint_step is None else f"from the checkpoint after step {checkpoint_step}"


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 2000 else f"{text[:2000]}..."
