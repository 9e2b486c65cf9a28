"""A recipe in words: its parts with their settings, its family, the paragraphs of its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from preceptor.wire.recipes import PartShown, ReductionShown, SettingShown
from preceptor_trainer.recipe import REWARD, Part, Recipe

TABLES = ("sparse",)
"""Fields of a recipe that are settings, in a table of their own."""
OWN = ("reduction", "training")
"""Fields of a recipe that are settings themselves."""


def family(recipe: Recipe) -> str:
    """What kind of method it is, by who teaches whom."""
    if not recipe.contexts:
        return "Baselines"
    if recipe.writers:
        return "Teachers that write"
    own, others = "self" in recipe.roles, recipe.roles - {"self"}
    if own and recipe.readers(REWARD):
        return "Reward, and the student as its own teacher"
    if own:
        return "Several teachers" if others else "The student as its own teacher"
    return "Several teachers" if len(others) > 1 else "Another model as the teacher"


def paragraph(description: str, begins: str) -> str:
    """The paragraph of a docstring that begins so, on one line; empty where there is none."""
    for each in description.split("\n\n"):
        if each.startswith(begins):
            return " ".join(each.split())
    return ""


def parts(recipe: Recipe) -> tuple[PartShown, ...]:
    """All of them, in the order of the recipe's fields."""
    shown = [
        found
        for name in Recipe.model_fields
        if name not in (*OWN, *TABLES, "paper", "reduces")
        for found in _below(name, name, getattr(recipe, name))
    ]
    tables = [_shown(name, name, name, getattr(recipe, name)) for name in TABLES]
    own = PartShown(path="", role="recipe", kind="recipe", says="", settings=tuple(_settings(recipe, OWN)))
    return (*shown, *tables, own)


def reductions(recipe: Recipe) -> tuple[ReductionShown, ...]:
    """What it becomes, as plain JSON values."""
    return tuple(ReductionShown.model_validate(to_jsonable_python(each.model_dump())) for each in recipe.reduces)


def _below(path: str, role: str, held: Any) -> Iterator[PartShown]:
    """The parts at a path and, part by part, those they are made of."""
    if isinstance(held, Part):
        yield _shown(path, role, held.kind, held)
        for name in type(held).model_fields:
            if _made_of_parts(inner := getattr(held, name)):
                yield from _below(f"{path}.{name}", name, inner)
    elif isinstance(held, Mapping):
        for name, inner in cast("Mapping[str, Any]", held).items():
            yield from _below(f"{path}.{name}", role, inner)
    elif isinstance(held, tuple):
        for index, inner in enumerate(cast("tuple[Any, ...]", held)):
            yield from _below(f"{path}.{index}", role, inner)


def _made_of_parts(held: Any) -> bool:
    if isinstance(held, Mapping):
        held = tuple(cast("Mapping[str, Any]", held).values())
    if isinstance(held, tuple):
        return any(isinstance(inner, Part) for inner in cast("tuple[Any, ...]", held))
    return isinstance(held, Part)


def _shown(path: str, role: str, kind: str, held: BaseModel) -> PartShown:
    said = (inspect.getdoc(type(held)) or "").split("\n\n")[0]
    names = [name for name in type(held).model_fields if not _made_of_parts(getattr(held, name))]
    return PartShown(
        path=path, role=role, kind=kind, says=" ".join(said.split()), settings=tuple(_settings(held, names))
    )


def _settings(held: BaseModel, names: tuple[str, ...] | list[str]) -> Iterator[SettingShown]:
    for name in names:
        field = type(held).model_fields[name]
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield SettingShown(
            name=name,
            value=to_jsonable_python(getattr(held, name)),
            default=to_jsonable_python(default),
            required=field.is_required(),
            says=" ".join((field.description or "").split()),
        )
