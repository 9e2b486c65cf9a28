"""The gap between who writes a rollout and who learns from it, as a weight on every token of a recipe's terms.

Two programs compute other numbers from the same weights, and older weights give others too. A term that multiplies with
the ratio of the student to the writer is right about both already; every other is multiplied with that ratio, cut so
that a single token cannot carry a step. See docs/decisions/a-token-is-corrected-once.md.
"""

from __future__ import annotations

from preceptor.wire.runs import Run
from preceptor.wire.training import Mismatch
from preceptor_trainer.parts.weights import ImportanceBand, ImportanceTruncate
from preceptor_trainer.recipe import Recipe, Term, Weight


def as_written(recipe: Recipe, run: Run) -> Recipe:
    """The recipe as this run learns by it: corrected where the run says so, or a sampler writes its rollouts."""
    mismatch = run.training.mismatch or (None if run.sampler is None else Mismatch())
    return recipe if mismatch is None else corrected(recipe, mismatch)


def uncorrected(recipe: Recipe) -> list[int]:
    """The terms that read no ratio to the writer, by their places in the objective."""
    if any(weight.corrects for weight in recipe.weights):
        return []
    return [index for index, term in enumerate(recipe.objective) if not _corrects(term)]


def corrected(recipe: Recipe, mismatch: Mismatch) -> Recipe:
    """The same recipe with each of those multiplied with the cut ratio."""
    places, part = uncorrected(recipe), _part(mismatch)
    if part is None or not places:
        return recipe
    terms = [
        term.model_copy(update={"weights": (*term.weights, part)}) if index in places else term
        for index, term in enumerate(recipe.objective)
    ]
    return recipe.model_copy(update={"objective": tuple(terms)})


def _part(mismatch: Mismatch) -> Weight | None:
    if mismatch.correction == "off":
        return None
    if mismatch.correction == "band":
        return ImportanceBand(low=mismatch.low, high=mismatch.high)
    return ImportanceTruncate(most=mismatch.high)


def _corrects(term: Term) -> bool:
    return term.corrects or any(weight.corrects for weight in term.weights)
