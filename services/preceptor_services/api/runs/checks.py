"""What is found wrong with a wish for a run before anything is changed: each complaint one sentence that names a field.

What only the worker can find out (weights that cannot be loaded, prompts that turn out too long) fails the run there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind, ModelFacts
from preceptor.wire.runs import Alignment, RunCreate, Training
from preceptor.wire.teachers import Card, Support, TeacherState, Values
from preceptor_services.api.artifacts import service as artifacts
from preceptor_services.api.runs.data_checks import check_data
from preceptor_services.api.teachers import service as teachers
from preceptor_services.problems import invalid
from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a wish comes to."""

    recipe: Recipe
    training: Training


def check(session: Session, wish: RunCreate) -> Accepted:
    """Raises Invalid where a wish cannot be carried out."""
    recipe = _recipe(wish)
    training = _training(recipe, wish.training)
    student = _student(session, wish.student)
    cards = _cards(session, recipe, wish.teachers)
    longest = check_data(session, recipe, wish.data, training, student)
    for role, card in sorted(cards.items()):
        _suits(role, wish.teachers[role], card, recipe, student, longest, wish.alignment)
    return Accepted(recipe=recipe, training=training)


def _recipe(wish: RunCreate) -> Recipe:
    try:
        recipe = recipes.load(wish.recipe)
    except recipes.UnknownRecipe as error:
        raise Invalid(f"recipe: {str(error)[:300]}.", field="recipe") from error
    if wish.overrides:
        try:
            recipe = recipe.override(wish.overrides)
        except ValidationError as error:
            raise _bad_override(recipe, error) from error
        except (TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise Invalid(f"overrides: they do not fit recipe {wish.recipe}.", field="overrides") from error
    if recipe.teacher.kind != "frozen":
        raise Invalid(
            f"recipe: {wish.recipe} moves its self-teacher ('{recipe.teacher.kind}'), and no registered teacher takes "
            "new weights yet.",
            field="overrides.teacher" if "teacher" in wish.overrides else "recipe",
            remedy='Override it: {"teacher": {"kind": "frozen"}}.',
        )
    return recipe


def _bad_override(recipe: Recipe, error: ValidationError) -> Invalid:
    first = error.errors(include_url=False)[0]
    wrong = invalid(error.errors(include_url=False), prefix="overrides")
    if first["type"] != "extra_forbidden":
        return wrong
    known = _fields(recipe, first["loc"][:-1])
    name = str(first["loc"][-1])
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(known))}." if known else None
    return Invalid(wrong.problem.detail, field=wrong.field, remedy=hint)


def _fields(recipe: Recipe, path: tuple[int | str, ...]) -> list[str]:
    """The fields that the part at a path has; none where the path leads nowhere."""
    part: Any = recipe
    for step in path:
        try:
            part = cast("Any", part)[step] if isinstance(part, Mapping | tuple) else getattr(part, str(step))
        except (AttributeError, KeyError, IndexError, TypeError):
            return []
    return list(getattr(type(part), "model_fields", {}))


def _training(recipe: Recipe, wished: Mapping[str, Any]) -> Training:
    try:
        return Training.model_validate({**recipe.training, **wished})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = invalid(error.errors(include_url=False), prefix="training")
        if first["type"] != "extra_forbidden":
            raise wrong from error
        known = list(Training.model_fields)
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


def _cards(session: Session, recipe: Recipe, wished: Mapping[str, str]) -> dict[str, Card]:
    if unknown := sorted(wished.keys() - recipe.roles):
        roles = ", ".join(sorted(recipe.roles)) or "none"
        raise Invalid(
            f"teachers.{unknown[0]}: the recipe has no such role; it has {roles}.",
            field=f"teachers.{unknown[0]}",
            remedy="Leave it out, or name the role that you mean.",
        )
    if absent := sorted(recipe.roles - wished.keys()):
        raise Invalid(
            f"teachers.{absent[0]}: the recipe needs a teacher for this role, and the run names none.",
            field=f"teachers.{absent[0]}",
            remedy=f'Name a registered teacher: {{"teachers": {{"{absent[0]}": "NAME"}}}}.',
        )
    return {role: _card(session, role, name) for role, name in wished.items()}


def _card(session: Session, role: str, name: str) -> Card:
    field = f"teachers.{role}"
    teacher = teachers.find(session, name)
    if teacher is None:
        known = [each.name for each in teachers.every(session)]
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}." if known else "Register one."
        raise Invalid(f"{field}: there is no teacher {name[:100]!r}.", field=field, remedy=hint)
    if teacher.state != TeacherState.READY.value or teacher.card is None:
        raise Invalid(
            f"{field}: teacher {name} is {teacher.state}, and takes no new runs.",
            field=field,
            remedy=f"See why with GET /v1/teachers/{name}, and probe it again.",
        )
    return teacher.card


def _suits(
    role: str, name: str, card: Card, recipe: Recipe, student: ModelFacts, longest: int, alignment: Alignment
) -> None:
    """Whether a teacher can say what the recipe wants to know of this student. `longest`: tokens, a lower bound."""
    field = f"teachers.{role}"
    if not card.supports:
        raise Invalid(
            f"{field}: teacher {name} is a text teacher: it writes, and gives no scores to learn from.",
            field=field,
            remedy="Choose a teacher that offers a support.",
        )
    foreign = card.tokenizer.fingerprint != student.fingerprint
    if foreign:
        _can_be_aligned(field, name, card, recipe, student, alignment)
    if recipe.support not in card.supports:
        offered = ", ".join(card.supports) or "none"
        raise Invalid(
            f"{field}: the recipe needs the support {recipe.support.value}, and teacher {name} offers {offered}.",
            field=field,
            remedy="Choose another teacher, or a recipe that needs less.",
        )
    if recipe.support is Support.FULL and card.tokenizer.vocab_size != student.vocab_size:
        raise Invalid(
            f"{field}: teacher {name} has {card.tokenizer.vocab_size} outputs and the student {student.vocab_size}.",
            field=field,
            remedy="Choose a teacher with as many, or a recipe that compares sampled tokens only.",
        )
    if card.values is not Values.RAW:
        raise Invalid(
            f"{field}: teacher {name} gives tempered log-probabilities, and recipes want the model's own.",
            field=field,
            remedy="Start it without temperature and filters.",
        )
    wanted = recipe.rollout.max_tokens + longest
    # A foreign tokenizer makes other lengths of the same text: what is too long for it shows when it is read.
    if wanted > card.limits.max_tokens and not foreign:
        prompts = f", after prompts of {longest} tokens or more," if longest else ""
        raise Invalid(
            f"overrides.rollout.max_tokens: completions of up to {recipe.rollout.max_tokens} tokens{prompts} do not "
            f"fit teacher {name}, which reads {card.limits.max_tokens}.",
            field="overrides.rollout.max_tokens",
            remedy=f"Lower it to {max(card.limits.max_tokens - longest, 1)} or less, or choose another teacher.",
        )


def _can_be_aligned(
    field: str, name: str, card: Card, recipe: Recipe, student: ModelFacts, alignment: Alignment
) -> None:
    """Whether a teacher with another tokenizer than the student's can be heard all the same."""
    if alignment == "ids":
        stated = card.tokenizer.fingerprint
        its = f"its tokenizer is {stated[:19]}" if stated else "its tokenizer is not known"
        raise Invalid(
            f"{field}: teacher {name} reads other tokens than the student does ({its}, the student's "
            f"{student.fingerprint[:19]}).",
            field=field,
            remedy='Choose a teacher with the student\'s tokenizer, or set alignment = "bytes" and a recipe that needs '
            "no more than the sampled tokens' scores.",
        )
    if recipe.support is not Support.SAMPLED:
        raise Invalid(
            f"alignment: teacher {name} has another tokenizer, so that only what was written can be scored, and the "
            f"recipe needs the support {recipe.support.value}: distributions over other tokens cannot be compared.",
            field="alignment",
            remedy="Choose a recipe that needs the support sampled (opd), or a teacher with the student's tokenizer.",
        )
    for whose, reason in ((f"teacher {name}", card.tokenizer.unalignable), ("the student", student.unalignable)):
        if reason is not None:
            raise Invalid(
                f"alignment: {whose} has a tokenizer that cannot be aligned by bytes: {reason}.",
                field="alignment",
                remedy="Choose models whose tokens are the bytes of the text: byte-level BPE, or SentencePiece with "
                "byte fallback and no normaliser.",
            )
    if card.tokenizer_file is None or card.tokenizer.chat_template is None:
        lacks = "does not serve its tokenizer" if card.tokenizer_file is None else "has no chat template"
        raise Invalid(
            f"alignment: teacher {name} {lacks}, so that no text can be put to it in its own tokens.",
            field="alignment",
            remedy="Serve the model with `preceptor teacher serve`, from a folder with a chat template.",
        )
