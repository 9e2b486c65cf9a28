"""Checkpoints: a folder of safetensors and JSON, written aside and renamed, so that a half-written one is never read.

    model/                 a plain Hugging Face folder: config, tokenizer, weights. It can be served or exported as
    it is
    optimizer.safetensors  what the next update depends on
    state.json             the step, and what the run has accumulated

Sampling and data are pure functions of (seed, step), so the step is their whole position.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from preceptor.wire.runs import Evaluation
from preceptor_trainer.model import Model
from preceptor_trainer.optim import Optimizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


class CheckpointError(OSError):
    """A checkpoint could not be written or read."""


class CheckpointState(BaseModel):
    """What a run has accumulated up to a step."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    step: int
    """The last step whose update is in the weights."""
    seed: int
    train_seconds: float
    """Spent in steps, evaluation left out."""
    baseline: Evaluation | None = None
    """The evaluation before the first step."""


def save(folder: Path, model: Model, optimizer: Optimizer, state: CheckpointState) -> None:
    """Write a checkpoint to `folder`, replacing one that is there. Raises CheckpointError; then nothing was changed."""
    aside = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        save_model(model, aside / "model")
        save_file(optimizer.state(), aside / "optimizer.safetensors")
        (aside / "state.json").write_text(state.model_dump_json(indent=1))
        _sync(aside)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint at step {state.step} could not be written to {folder}: {error.strerror or error}; "
            "free some space and resume the run from its last checkpoint"
        ) from error


def save_model(model: Model, folder: Path) -> None:
    """A plain Hugging Face folder of the model as it is now."""
    folder.mkdir(parents=True)
    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.module.save_pretrained(folder)
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    for name in TOKENIZER_FILES:
        if (model.folder / name).is_file():
            shutil.copyfile(model.folder / name, folder / name)


def load_state(folder: Path) -> CheckpointState:
    """What a checkpoint says of itself. Raises CheckpointError when it is not one."""
    try:
        return CheckpointState.model_validate(json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint of this version: {error}") from error


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Put a checkpoint's optimizer state into `optimizer`. Raises CheckpointError."""
    try:
        optimizer.load(load_file(folder / "optimizer.safetensors"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the optimizer's state cannot be read: {error}") from error


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
