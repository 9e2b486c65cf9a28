"""The file that brings a run's recipe, where it is the operator's own: is it still the one that was accepted?"""

from __future__ import annotations

from preceptor.errors import Conflict
from preceptor_services.db import models
from preceptor_trainer import recipes


def take_up_file(run: models.Run) -> str | None:
    """Whoever resumes a run goes on with its recipe's file as it is now: what to tell where that has changed. Raises
    Conflict where it is gone or broken."""
    if run.recipe_sha256 is None:
        return None
    try:
        now = recipes.fingerprint(run.recipe)
    except (recipes.UnknownRecipe, recipes.BrokenRecipe) as error:
        raise Conflict(
            f"Run {run.id} cannot go on: {error}.", remedy="Put the recipe's file back, or start a new run."
        ) from error
    if now == run.recipe_sha256:
        return None
    before, run.recipe_sha256 = run.recipe_sha256, now
    return (
        f"The file of recipe {run.recipe} has changed since the run began (SHA-256 {before[:12]}, now "
        f"{str(now)[:12]}): the steps from here on are computed by other code. Its settings stay as they were resolved."
    )
