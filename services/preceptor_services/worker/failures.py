"""What is said of a run that failed: every exception that leaves the loop is classified here, once, into a Problem."""

from __future__ import annotations

from errno import ENOSPC

import torch

from preceptor.errors import PROBLEM_TYPES
from preceptor.wire.common import Problem
from preceptor_services.worker.faults import fault, look, sentence, told
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
    if (known := told(error, worker)) is not None:
        return known
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Problem(
            type=PROBLEM_TYPES + "out-of-memory",
            title="Out of memory",
            detail=f"The worker {worker} ran out of memory: {sentence(error)}",
            remedy="Lower training.microbatch_tokens or training.batch, or use a larger machine.",
            status=500,
        )
    if isinstance(error, FloatingPointError):
        return Problem(
            type=PROBLEM_TYPES + "diverged",
            title="Training diverged",
            detail=sentence(error),
            remedy="Lower training.learning_rate or training.clip_norm, and start again.",
            status=500,
        )
    if isinstance(error, CheckpointError) or (isinstance(error, OSError) and error.errno == ENOSPC):
        return Problem(
            type=PROBLEM_TYPES + "cannot-write",
            title="The worker's disk",
            detail=sentence(error),
            remedy=f"Make room on the worker {worker}, or correct its folder (PRECEPTOR_CACHE_DIR).",
            status=507,
        )
    if isinstance(error, ValueError | OSError):
        return Problem(
            type=CANNOT_TRAIN,
            title="The run cannot be trained as it is",
            detail=sentence(error),
            remedy=f"Correct what it names and start the run again. {look(worker)}",
            status=422,
        )
    return fault(error, worker, of="trainer", what="run")


def _from(checkpoint_step: int | None) -> str:
    return "from the beginning" if checkpoint_step is None else f"from the checkpoint after step {checkpoint_step}"
