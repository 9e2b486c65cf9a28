"""Procedural tasks, one file each; a task's name is its module's name.

    load("spell_backward", {"max_word_len": 6}).train(step=0, batch=64, seed=0)

A module of this folder defines `TASK`, a `ProceduralTask` class whose fields are the task's options. So does one of an
installed package that names itself in the entry-point group `preceptor.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from preceptor_trainer.tasks._procedural import ProceduralTask, Split, TooFewQuestions, question_id, shown, split_of

__all__ = ["ProceduralTask", "Split", "TooFewQuestions", "load", "names", "question_id", "shown", "split_of"]


GROUP = "preceptor.tasks"
"""Entry points of tasks in other packages: `my_task = "my_package.my_task"`, a module with a `TASK`."""


def names() -> list[str]:
    """Every task there is, sorted."""
    return sorted(_modules())


@lru_cache(maxsize=1)
def _modules() -> Mapping[str, str]:
    """Where each task is. One of our own names is never another package's."""
    ours = [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]
    theirs = {point.name: point.value for point in entry_points(group=GROUP)}
    return theirs | {name: f"{__name__}.{name}" for name in ours}


def load(name: str, options: Mapping[str, Any] | None = None) -> ProceduralTask:
    """The task of this name, with its options checked. Raises ValueError with a sentence that names what is wrong."""
    if name not in names():
        raise ValueError(f"there is no task {name!r}; choose one of {', '.join(names())}")
    kind: type[ProceduralTask] = import_module(_modules()[name]).TASK
    try:
        return kind.model_validate(dict(options or {}))
    except ValidationError as error:
        raise ValueError(f"task {name!r}: {_sentence(kind, error)}") from error


def _sentence(kind: type[ProceduralTask], error: ValidationError) -> str:
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"it has no option {option!r}; it has {', '.join(sorted(kind.model_fields))}"
    message = first["msg"].removeprefix("Value error, ")
    return f"option {option!r}: {message}" if option else message
