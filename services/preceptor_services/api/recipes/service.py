"""Recipes, as they are told."""

from __future__ import annotations

import json
from typing import Any

from preceptor.errors import Conflict, NotFound
from preceptor.wire.recipes import RecipeDetail, RecipeSummary
from preceptor.wire.teachers import Support
from preceptor_services.api.recipes.showing import family, paragraph, parts, reductions
from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe


def every() -> tuple[RecipeSummary, ...]:
    """All recipes, by name. One whose file is broken is listed with its trouble."""
    return tuple(_listed(name) for name in recipes.names())


def one(name: str) -> RecipeDetail:
    """A recipe with every part spelled out. Raises NotFound with the nearest names, Conflict where it is broken."""
    try:
        recipe = recipes.load(name)
    except recipes.UnknownRecipe as error:
        raise NotFound(f"{str(error)[:300]}.") from error
    except recipes.BrokenRecipe as error:
        raise Conflict(
            f"Recipe {name} cannot be used: {error}.", remedy="Correct its file; it is read anew."
        ) from error
    said = recipes.described(name)
    return RecipeDetail(
        **_summary(name, recipe).model_dump(),
        description=said,
        evidence=paragraph(said, "Evidence:").removeprefix("Evidence: "),
        helps=paragraph(said, "Helps"),
        needs={name: recipe.needs(name) for name in recipe.contexts},
        columns=tuple(sorted(_columns(recipe))),
        parts=parts(recipe),
        reduces=reductions(recipe),
        resolved=resolved(recipe),
    )


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every part with every setting, as plain JSON values."""
    return json.loads(recipe.model_dump_json())


def _listed(name: str) -> RecipeSummary:
    try:
        return _summary(name, recipes.load(name))
    except recipes.BrokenRecipe as error:
        return RecipeSummary(
            name=name,
            summary="cannot be used",
            paper="",
            roles=(),
            support=Support.SAMPLED,
            origin=recipes.origin(name),
            trouble=str(error),
        )


def _summary(name: str, recipe: Recipe) -> RecipeSummary:
    return RecipeSummary(
        name=name,
        summary=" ".join(recipes.summary(name).split()),
        paper=recipe.paper,
        family=family(recipe),
        roles=tuple(sorted(recipe.roles)),
        support=recipe.support,
        origin=recipes.origin(name),
    )


def _columns(recipe: Recipe) -> set[str]:
    shown = {column for context in recipe.contexts.values() for column in context.columns}
    routed = {column for router in recipe.routers.values() for column in router.columns}
    return shown | routed | set(recipe.rollout.columns)
