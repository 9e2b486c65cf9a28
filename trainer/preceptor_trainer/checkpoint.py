"""Checkpoints: a folder of safetensors and JSON, written aside and renamed, so that a half-written one is never read.

    model/                 a plain Hugging Face folder: config, tokenizer, weights. Served or exported as it is
    adapter/               a LoRA student's, in place of model/: peft's own format
    optimizer.safetensors  what the next update depends on
    teacher.safetensors    a moving self-teacher's weights, in float32
    best/                  the best student so far (a model or an adapter folder), where the run keeps it
    state.json             the step, and what the run has accumulated

Sampling and data are pure functions of (seed, step), so the step is their whole position.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from preceptor.wire.runs import Evaluation
from preceptor_trainer import lora
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.optim import Optimizer
from preceptor_trainer.ranks import Ranks

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
MODEL, ADAPTER, OPTIMIZER, TEACHER, BEST = "model", "adapter", "optimizer.safetensors", "teacher.safetensors", "best"


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
    best: Evaluation | None = None
    """The best evaluation so far; of equals, the first."""
    bar: float | None = None
    """The last score that was better than those before it by as much as the early stop asks."""
    stale: int = 0
    """Evaluations since then."""
    stopped: bool = False
    """The run has ended before its last step."""
    first_length: float | None = None
    """Mean completion length of the first step."""
    streaks: dict[str, int] = {}
    """By guard: steps in a row that it has been wrong for."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint."""


def save(
    folder: Path,
    model: Model,
    moments: Mapping[str, Tensor],
    state: CheckpointState,
    *,
    student: str = "",
    teacher: Mapping[str, Tensor] | None = None,
    best: Path | None = None,
) -> None:
    """Write a checkpoint to `folder`, replacing one that is there. Raises CheckpointError; then nothing was changed.

    moments: the optimizer's state. student: what an adapter is one of. teacher: a moving self-teacher's state. best:
    the folder of the best student.
    """
    aside = folder.with_name(f".{folder.name}.part")
    with writing(f"the checkpoint at step {state.step}", folder, aside):
        aside.mkdir(parents=True)
        save_student(model, aside, student)
        save_file(dict(moments), aside / OPTIMIZER)
        if teacher is not None:
            save_file(dict(teacher), aside / TEACHER)
        if best is not None:
            shutil.copytree(best, aside / BEST, copy_function=_link)
        (aside / "state.json").write_text(state.model_dump_json(indent=1))


@contextmanager
def writing(what: str, folder: Path, aside: Path) -> Generator[None]:
    """Within it `aside` is written; then that is `folder`, or nothing was changed and CheckpointError is raised."""
    try:
        shutil.rmtree(aside, ignore_errors=True)
        yield
        _sync(aside)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        why = getattr(error, "strerror", None) or str(error)
        full = os.strerror(errno.ENOSPC)
        remedy = "free some space" if full in str(error) else "check the folder, its rights and its disk"
        raise CheckpointError(
            f"{what} could not be written to {folder}: {why}; {remedy} and resume the run from its last checkpoint"
        ) from error


def save_student(model: Model, folder: Path, student: str) -> None:
    """The student below `folder`: `model/`, or `adapter/` where it has adapters."""
    if lora.adapted(model):
        lora.save_adapter(model, folder / ADAPTER, student)
    else:
        save_model(model, folder / MODEL)


def saved_student(folder: Path) -> Path:
    """Where `save_student` has put it."""
    return folder / (ADAPTER if (folder / ADAPTER).is_dir() else MODEL)


def save_model(model: Model, folder: Path) -> None:
    """A plain Hugging Face folder of the model as it is now; adapters are merged into it."""
    folder.mkdir(parents=True)
    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        if lora.adapted(model):
            _save_merged(model, folder)
        else:
            model.module.save_pretrained(folder)
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    for name in TOKENIZER_FILES:
        if (model.folder / name).is_file():
            shutil.copyfile(model.folder / name, folder / name)


def merge_adapter(base: Path, adapter: Path, folder: Path) -> None:
    """Write the model of a folder, with an adapter folder added to it, as a plain Hugging Face folder.

    Raises UnreadableModel, Invalid where the adapter is none or not of this model, OSError.
    """
    model = load_model(base)
    lora.adapt(model, adapter)
    with writing("the merged model", folder, folder.with_name(f".{folder.name}.part")):
        save_model(model, folder.with_name(f".{folder.name}.part"))


def load_state(folder: Path) -> CheckpointState:
    """What a checkpoint says of itself. Raises CheckpointError when it is not one."""
    try:
        return CheckpointState.model_validate(json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint of this version: {error}") from error


def load_optimizer(folder: Path, optimizer: Optimizer, ranks: Ranks | None = None) -> None:
    """Put a checkpoint's optimizer state into `optimizer`; the first of several ranks reads it for all. Raises
    CheckpointError."""
    ranks = ranks or Ranks()
    try:
        optimizer.load(ranks.copied(load_file(folder / OPTIMIZER) if ranks.first else {}))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the optimizer's state cannot be read: {error}") from error


def load_teacher(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's moving self-teacher. Raises CheckpointError."""
    try:
        return load_file(folder / TEACHER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the self-teacher's weights cannot be read: {error}") from error


def _save_merged(model: Model, folder: Path) -> None:
    model.config.save_pretrained(folder)
    if model.module.generation_config is not None:
        model.module.generation_config.save_pretrained(folder)
    tied: Mapping[str, str] = getattr(model.module, "all_tied_weights_keys", None) or {}
    state = {name: each for name, each in lora.merged_state(model).items() if name not in tied}
    save_torch_state_dict(state, folder, metadata={"format": "pt"})


def _link(source: str, target: str) -> str:
    """The same file under a second name where the disk can do that: best weights are written once."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
