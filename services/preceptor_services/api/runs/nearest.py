"""What would do where a teacher cannot say what a recipe needs: another that is registered, or a smaller question.

Nothing is suggested that was not tried against the same checks.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from preceptor.wire.artifacts import ModelFacts
from preceptor.wire.teachers import Card, Support, TeacherState, Values
from preceptor_services.api.runs.writer_checks import writes
from preceptor_services.api.teachers import service as teachers
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.support import NoSupport, choose_support

SHOWN = 3
"""Teachers that are named."""


def askers(recipe: Recipe, context: str) -> str:
    """The parts for whose sake a context's opinions need the support that they need."""
    need, found = recipe.needs(context), list[str]()
    for index, term in enumerate(recipe.objective):
        target = term.target or recipe.target
        if not term.targeted or target is None or context not in target.uses:
            continue
        parts = [("objective", term), ("target", target), *(("weight", each) for each in recipe.weights + term.weights)]
        found += [
            f"{place} '{part.kind}'" if place != "objective" else f"objective.{index} '{part.kind}'"
            for place, part in parts
            if part.needs is need
        ]
    return ", ".join(dict.fromkeys(found))


def nearest(session: Session, name: str, card: Card, role: str, recipe: Recipe, student: ModelFacts) -> str:
    """What would do in this role instead of this teacher, or with it; empty where nothing would."""
    suited = [
        each.name
        for each in teachers.every(session)
        if each.name != name and each.state is TeacherState.READY and _suits(each.card, role, recipe, student)
    ]
    if suited:
        more = f" and {len(suited) - SHOWN} more" if len(suited) > SHOWN else ""
        return f"Registered and fit for it: {', '.join(suited[:SHOWN])}{more}."
    sampled = _smaller(recipe)
    if sampled is not None and _suits(card, role, recipe.override({"objective": sampled}), student):
        kinds = '{"objective": [{"kind": "sampled_reverse_kl"}]}'
        return f"With this teacher the written tokens alone can be learned from: overrides {kinds}."
    return ""


def _suits(card: Card | None, role: str, recipe: Recipe, student: ModelFacts) -> bool:
    if card is None or (role in recipe.writers and not writes(card, recipe, role)):
        return False
    if role not in recipe.scorers:
        return True
    if card.values is not Values.RAW or card.tokenizer.fingerprint != student.fingerprint:
        return False
    try:
        for name, context in recipe.contexts.items():
            if role in context.scorers:
                choose_support(recipe, "", card, recipe.needs(name), student.vocab_size)
    except NoSupport:
        return False
    return True


def _smaller(recipe: Recipe) -> list[dict[str, Any]] | None:
    """The objective that asks least of the recipe's target; None where there is none, or it is that already."""
    if recipe.target is None or recipe.target.needs is not Support.SAMPLED or recipe.support is Support.SAMPLED:
        return None
    return [{"kind": "sampled_reverse_kl"}]
