"""Recipes, as they are told."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from preceptor.errors import NotFound
from preceptor.wire.recipes import RecipeDetail, RecipeSummary
from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe


def every() -> tuple[RecipeSummary, ...]:
    """All recipes, by name."""
    return tuple(_summary(name, recipes.load(name)) for name in recipes.names())


def one(name: str) -> RecipeDetail:
    """A recipe with every part spelled out. Raises NotFound with the nearest names."""
    try:
        recipe = recipes.load(name)
    except recipes.UnknownRecipe as error:
        raise NotFound(f"{str(error)[:300]}.") from error
    described = (import_module(f"{recipes.__name__}.{name}").__doc__ or "").strip()
    return RecipeDetail(**_summary(name, recipe).model_dump(), description=described, resolved=resolved(recipe))


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every part with every setting, as plain JSON values."""
    return json.loads(recipe.model_dump_json())


def _summary(name: str, recipe: Recipe) -> RecipeSummary:
    return RecipeSummary(
        name=name,
        summary=" ".join(recipes.summary(name).split()),
        paper=recipe.paper,
        roles=tuple(sorted(recipe.roles)),
        support=recipe.support,
    )
