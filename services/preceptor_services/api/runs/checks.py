"""What is found wrong with a wish for a run before anything is changed: each complaint one sentence that names a field.

What only the worker can find out (weights that cannot be loaded, prompts that turn out too long) fails the run there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind, ModelFacts
from preceptor.wire.runs import RunCreate
from preceptor.wire.training import (
    EarlyStop,
    EntropyGuard,
    Guards,
    LengthGuard,
    LoRA,
    Mismatch,
    RepetitionGuard,
    TailGuard,
    Training,
)
from preceptor_services.api.artifacts import service as artifacts
from preceptor_services.api.runs.data_checks import check_data
from preceptor_services.api.runs.recipe_checks import check_leaks, recipe_of
from preceptor_services.api.runs.sampler_checks import check_apart, check_sampler
from preceptor_services.api.runs.skill_checks import check_skills
from preceptor_services.api.runs.teacher_checks import cards_of, check_suit
from preceptor_services.api.runs.training_checks import check_taught, check_training
from preceptor_services.problems import invalid
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.standing import STANDING

_EVERY_SETTING = Training(
    lora=LoRA(),
    mismatch=Mismatch(),
    early_stop=EarlyStop(),
    guards=Guards(
        repetition=RepetitionGuard(), length=LengthGuard(), entropy=EntropyGuard(), tail=TailGuard(), nonfinite="warn"
    ),
)
"""Settings of which none is left out: what a misspelt one may have meant."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a wish comes to."""

    recipe: Recipe
    training: Training
    skills: str | None
    """The skill bank with its version."""


def check(session: Session, wish: RunCreate, *, paired: bool = False) -> Accepted:
    """Raises Invalid where a wish cannot be carried out. `paired`: it is one side of a pair."""
    recipe = recipe_of(wish)
    if not paired and (reading := recipe.readers(STANDING)):
        raise Invalid(
            f"recipe: {reading[0]} asks how the student's peer does, and a run by itself has none.",
            field="recipe",
            remedy="Start it as one side of a pair: `preceptor codistill start pair.toml`.",
        )
    training = _training(recipe, wish.training)
    check_leaks(recipe, training)
    student = _student(session, wish.student)
    cards = cards_of(session, recipe, wish)
    asking, skills = check_skills(session, recipe, wish)
    longest = check_data(session, asking, wish.data, training, student)
    check_suit(session, cards, recipe, student, longest, wish.alignment)
    check_sampler(session, wish, recipe, training, student, longest)
    check_training(session, wish, recipe, training, student, cards)
    return Accepted(recipe=recipe, training=training, skills=skills)


def check_filled(
    session: Session, wish: RunCreate, recipe: Recipe, training: Training, kept: Collection[str], run_id: str
) -> None:
    """Raises Invalid where a run that was accepted cannot go on with these teachers. `kept`: roles that are filled as
    before."""
    student = _student(session, wish.student)
    cards = cards_of(session, recipe, wish, kept)
    asking, _ = check_skills(session, recipe, wish)
    longest = check_data(session, asking, wish.data, training, student)
    check_suit(session, cards, recipe, student, longest, wish.alignment)
    check_apart(wish)
    check_taught(session, wish, recipe, training, student, cards, run_id)


def _fields(path: tuple[int | str, ...]) -> list[str]:
    """The training settings at a path; none where it leads nowhere."""
    part: Any = _EVERY_SETTING
    for step in path:
        part = getattr(part, str(step), None)
    return list(getattr(type(part), "model_fields", {}))


def _training(recipe: Recipe, wished: Mapping[str, Any]) -> Training:
    try:
        return Training.model_validate({**recipe.training, **wished})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = invalid(error.errors(include_url=False), prefix="training")
        if first["type"] != "extra_forbidden":
            raise wrong from error
        known = _fields(first["loc"][:-1])
        near = get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
        raise Invalid(wrong.problem.detail, field=wrong.field, remedy=hint) from error


def _student(session: Session, artifact_id: str) -> ModelFacts:
    facts = artifacts.ready_facts(session, artifact_id, ArtifactKind.MODEL, "student")
    assert isinstance(facts, ModelFacts)
    if not facts.chat_template:
        raise Invalid(
            "student: the model has no chat template, so that no prompt can be written for it.",
            field="student",
            remedy="Push the folder of an instruction model, or add chat_template.jinja to it.",
        )
    return facts
