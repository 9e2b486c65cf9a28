"""The operator's own recipes, opened where a process starts: the control plane's and the worker's."""

from __future__ import annotations

from pathlib import Path

from preceptor_services.errors import BadSetting
from preceptor_trainer import recipes


def open_own_recipes(folder: Path | None) -> None:
    """Look for recipes in this folder, too. Raises BadSetting where it is none, or a name is taken."""
    try:
        recipes.look_in(None if folder is None else folder.expanduser().absolute())
    except recipes.BrokenRecipe as error:
        raise BadSetting(f"PRECEPTOR_RECIPES: {error}.") from error
