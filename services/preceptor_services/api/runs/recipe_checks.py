"""The recipe that a wish comes to, and what is wrong with its overrides: the path, and the nearest thing there is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from preceptor.errors import Invalid
from preceptor.wire.runs import RunCreate
from preceptor.wire.training import Training
from preceptor_services.problems import invalid
from preceptor_trainer import recipes
from preceptor_trainer.leaks import Leak, LeakCheck
from preceptor_trainer.overrides import BadOverride, merged
from preceptor_trainer.recipe import GROUP, Part, Recipe

Path = tuple[int | str, ...]
_TAG = re.compile(r"function-\w+\[.*\]|float|int|str|bool|tuple\[.*\]|dict\[.*\]|literal\[.*\]|none")
"""What pydantic puts into a path to say which member of a union it tried."""


def recipe_of(wish: RunCreate) -> Recipe:
    """The recipe with the wish's overrides. Raises Invalid, naming the field."""
    try:
        recipe = recipes.load(wish.recipe)
    except recipes.UnknownRecipe as error:
        raise Invalid(f"recipe: {str(error)[:300]}.", field="recipe") from error
    except recipes.BrokenRecipe as error:
        raise Invalid(f"recipe: {error}.", field="recipe", remedy="Correct its file; it is read anew.") from error
    try:
        recipe = recipe.override(wish.overrides)
    except BadOverride as error:
        field = f"overrides.{error.path}"
        raise Invalid(f"{field}: {error.why}.", field=field, remedy=error.remedy) from error
    except ValidationError as error:
        raise _explained(error, merged(recipe.model_dump(), wish.overrides)) from error
    except (TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Invalid(f"overrides: they do not fit recipe {wish.recipe}.", field="overrides") from error
    _check_group(recipe)
    return recipe


def check_leaks(recipe: Recipe, training: Training) -> None:
    """Raises Invalid where a recipe shows what it must not, whatever the data."""
    if training.leak_check == "off":
        return
    try:
        LeakCheck(recipe).probe()
    except Leak as leak:
        field = f"overrides.{leak.field}"
        raise Invalid(f"overrides.{leak.problem.detail}", field=field, remedy=leak.problem.remedy) from leak


def _check_group(recipe: Recipe) -> None:
    if recipe.rollout.samples == 1 and (readers := recipe.readers(GROUP)):
        what = " and ".join(readers)
        raise Invalid(
            f"overrides.rollout.samples: {what} compares the rollouts of a task with each other, and there is one.",
            field="overrides.rollout.samples",
            remedy="Set it to 2 or more (8 is usual), or take out what compares.",
        )


def _explained(error: ValidationError, whole: Mapping[str, Any]) -> Invalid:
    """The first complaint about `whole`, the recipe as it would have been, with the nearest field there is."""
    found = error.errors(include_url=False)
    first = found[0]
    path = _path(first["loc"], whole)
    if isinstance(_at(whole, path), Mapping):
        # Of what could be a number or a part, a table was meant to be the part.
        meant = [each for each in found if any(str(step).startswith("function-") for step in each["loc"])]
        first = next((each for each in meant if _path(each["loc"], whole)[: len(path)] == path), first)
        path = _path(first["loc"], whole)
    others = {_path(each["loc"], whole) for each in found} - {path}
    wrong = invalid([{**first, "loc": path}, *others], prefix="overrides")
    if first["type"] != "extra_forbidden":
        return wrong
    known = _fields(whole, path[:-1])
    if len(path) == 1 and (mine := get_close_matches(str(path[0]), RunCreate.model_fields, n=1, cutoff=0.8)):
        return Invalid(wrong.problem.detail, field=wrong.field, remedy=f"Did you mean {mine[0]}, a field of the run?")
    near = get_close_matches(str(path[-1]), known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(known))}." if known else None
    return Invalid(wrong.problem.detail, field=wrong.field, remedy=hint)


def _path(loc: Path, whole: Mapping[str, Any]) -> Path:
    """A path as the caller knows it."""
    path: Path = ()
    for step in loc:
        held = _at(whole, path)
        named = isinstance(held, Mapping) and step in cast("Mapping[str, Any]", held)
        if named or not _TAG.fullmatch(str(step)):
            path = (*path, step)
    return path


def _at(whole: Any, path: Path) -> Any:
    """What lies there; None where nothing does."""
    for step in path:
        if isinstance(whole, Mapping):
            whole = cast("Mapping[Any, Any]", whole).get(step)
        elif isinstance(whole, Sequence) and isinstance(step, int) and step < len(cast("Sequence[Any]", whole)):
            whole = cast("Sequence[Any]", whole)[step]
        else:
            return None
    return whole


def _fields(whole: Mapping[str, Any], path: Path) -> list[str]:
    """The fields of what lies at a path: of a part by its kind, else of the recipe itself or a table of its."""
    if not path:
        return list(Recipe.model_fields)
    held = _at(whole, path)
    if isinstance(held, Mapping) and "kind" in held:
        kind = cast("Mapping[str, Any]", held)["kind"]
        parts = [role.kinds[kind] for role in Part.__subclasses__() if kind in role.kinds]
        return sorted({name for part in parts for name in part.model_fields})
    table = Recipe.model_fields[str(path[0])].annotation if path[0] in Recipe.model_fields else None
    if len(path) == 1 and isinstance(table, type) and issubclass(table, BaseModel):
        return list(table.model_fields)
    return []
