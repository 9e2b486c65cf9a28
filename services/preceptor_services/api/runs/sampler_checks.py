"""Whether the teacher that a run names as its sampler can write its rollouts, and what is made of its mismatch."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ModelFacts
from preceptor.wire.runs import RunCreate, Training
from preceptor.wire.teachers import Card, TeacherKind
from preceptor_services.api.runs.teacher_checks import registered
from preceptor_trainer.mismatch import uncorrected
from preceptor_trainer.recipe import Recipe


def check_sampler(
    session: Session, wish: RunCreate, recipe: Recipe, training: Training, student: ModelFacts, longest: int
) -> None:
    """Raises Invalid where the sampler cannot do what the run asks of it. `longest`: a prompt's tokens, at least."""
    name = wish.sampler
    _check_mismatch(wish, recipe, training)
    if name is None:
        return
    if training.devices > 1:
        raise Invalid(
            f"sampler: {training.devices} devices train this run, each of which would send it weights.",
            field="sampler",
            remedy="Set training.devices to 1, or leave the sampler out: every device then writes its own share.",
        )
    teacher = registered(session, "sampler", name)
    assert teacher.card is not None, "one that takes runs was probed"
    _check_writes(name, TeacherKind(teacher.kind), teacher.card)
    _check_recipe(recipe)
    _check_fits(name, teacher.card, recipe, student, longest)
    check_apart(wish)


def check_apart(wish: RunCreate) -> None:
    """Raises Invalid where the sampler is a teacher of the run too."""
    name = wish.sampler
    for field, names in (("teachers", wish.teachers), ("fallbacks", wish.fallbacks)):
        if name is not None and (role := _role_of(name, names)):
            raise Invalid(
                f"sampler: teacher {name} is {field}.{role} too, and would move with the student's weights.",
                field="sampler",
                remedy="Start another endpoint, and register it under a name of its own.",
            )


def _check_writes(name: str, kind: TeacherKind, card: Card) -> None:
    if kind is not TeacherKind.PRECEPTOR:
        raise Invalid(
            f"sampler: teacher {name} is a stock server (kind {kind}), which takes no weights from a run.",
            field="sampler",
            remedy="Put our service in front of it and register that: preceptor teacher serve --backend vllm "
            "--engine-url URL --takes-weights.",
        )
    if not card.writes:
        raise Invalid(
            f"sampler: teacher {name} ({card.engine}) writes no rollouts.",
            field="sampler",
            remedy="Serve the student with the hf or the vllm backend and --takes-weights, and probe it again.",
        )
    if not card.moves:
        raise Invalid(
            f"sampler: teacher {name} takes no new weights: from the second step on it would write by old ones.",
            field="sampler",
            remedy="Start it with --takes-weights and probe it again.",
        )


def _check_recipe(recipe: Recipe) -> None:
    rollout = recipe.rollout
    if rollout.kind == "dataset":
        raise Invalid(
            "sampler: this recipe learns from the data's completions; nothing is written.",
            field="sampler",
            remedy="Leave it out.",
        )
    if rollout.temperature != 1.0:
        raise Invalid(
            f"overrides.rollout.temperature: {rollout.temperature:g}; a sampler's log-probabilities are held against "
            "the learner's, which are untempered.",
            field="overrides.rollout.temperature",
            remedy="Override it with 1, or leave the sampler out.",
        )


def _check_fits(name: str, card: Card, recipe: Recipe, student: ModelFacts, longest: int) -> None:
    if card.tokenizer.fingerprint != student.fingerprint:
        raise Invalid(
            f"sampler: teacher {name} reads other tokens than the student does; it must serve the student's model.",
            field="sampler",
            remedy="Serve the student's folder there.",
        )
    if recipe.rollout.max_tokens + longest > card.limits.max_tokens:
        raise Invalid(
            f"overrides.rollout.max_tokens: completions of up to {recipe.rollout.max_tokens} tokens after prompts of "
            f"{longest} tokens or more do not fit sampler {name}, which reads {card.limits.max_tokens}.",
            field="overrides.rollout.max_tokens",
            remedy=f"Lower it to {max(card.limits.max_tokens - longest, 1)} or less, or serve the model with more.",
        )


def _check_mismatch(wish: RunCreate, recipe: Recipe, training: Training) -> None:
    mismatch = training.mismatch
    if mismatch is not None and wish.sampler is None and (training.max_lag == 0 or mismatch.correction == "off"):
        raise _no_effect("no sampler is named: the worker writes, and nothing is corrected but what max_lag makes old")
    if mismatch is not None and mismatch.correction != "off" and not uncorrected(recipe):
        raise _no_effect("every term of this recipe reads the ratio to the sampler already, and is not corrected twice")
    if (mismatch is None and wish.sampler is None) or (mismatch is not None and mismatch.correction == "off"):
        return
    if recipe.rollout.kind == "guided":
        raise Invalid(
            "training.mismatch: guided rollouts are written under another prompt than they are learned under: the "
            "ratio would measure the guide.",
            field="training.mismatch",
            remedy='Set it to {"correction": "off"}.',
        )


def _no_effect(why: str) -> Invalid:
    return Invalid(f"training.mismatch: {why}.", field="training.mismatch", remedy="Leave it out.")


def _role_of(name: str, names: Mapping[str, str]) -> str | None:
    return next((role for role, named in sorted(names.items()) if named == name), None)
