"""Recipes over HTTP."""

from __future__ import annotations

from preceptor.wire.recipes import RecipeDetail, RecipeSummary
from preceptor_services.api.deps import Reader, router
from preceptor_services.api.recipes import service

ROUTER = router("recipes")


@ROUTER.get("/recipes")
def list_recipes(caller: Reader) -> tuple[RecipeSummary, ...]:
    """All recipes, by name."""
    return service.every()


@ROUTER.get("/recipes/{name}")
def show_recipe(name: str, caller: Reader) -> RecipeDetail:
    """One recipe with every part spelled out: what a run's overrides are merged into."""
    return service.one(name)
