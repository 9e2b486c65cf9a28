"""The methods that the control plane knows."""

from __future__ import annotations

from preceptor.connection import Connection
from preceptor.wire.recipes import RecipeDetail, RecipeSummary


class Recipes:
    """Recipes of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> tuple[RecipeSummary, ...]:
        """All recipes, by name."""
        return self._connection.get(tuple[RecipeSummary, ...], "/v1/recipes")

    def get(self, name: str) -> RecipeDetail:
        """One recipe with every part spelled out. Raises NotFound."""
        return self._connection.get(RecipeDetail, f"/v1/recipes/{name}")
