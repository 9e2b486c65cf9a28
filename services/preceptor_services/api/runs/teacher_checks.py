"""Whether the teachers that a run names can say what its recipe wants to know: in every role, and in their stead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ModelFacts
from preceptor.wire.runs import Alignment, RunCreate
from preceptor.wire.teachers import OWN_BASE, Card, Support, TeacherState, Values
from preceptor_services.api.runs.nearest import askers, nearest
from preceptor_services.api.runs.writer_checks import check_writes
from preceptor_services.api.teachers import service as teachers
from preceptor_services.api.teachers.states import teacher_state
from preceptor_services.db import models
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.support import NoSupport, check_serves, choose_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A teacher where a wish names it."""

    field: str
    """`teachers.ROLE` or `fallbacks.ROLE`."""
    role: str
    name: str
    card: Card


def cards_of(session: Session, recipe: Recipe, wish: RunCreate, kept: Collection[str] = ()) -> Sequence[Named]:
    """All teachers that a wish names. Raises Invalid where one is missing, unknown, or takes no new runs. `kept`: roles
    whose teachers the run has already, whatever has become of them."""
    _check_roles(recipe.roles, wish.teachers, "teachers")
    check_vacant(recipe, wish)
    if absent := sorted(recipe.roles - wish.teachers.keys() - set(wish.vacant)):
        raise Invalid(
            f"teachers.{absent[0]}: the recipe needs a teacher for this role, and the run names none.",
            field=f"teachers.{absent[0]}",
            remedy=f'Name a registered teacher: {{"teachers": {{"{absent[0]}": "NAME"}}}}.',
        )
    for role in sorted(recipe.writers):
        if wish.teachers.get(role) == OWN_BASE:
            raise _cannot_write(f"teachers.{role}", OWN_BASE)
    _check_roles(recipe.roles, wish.fallbacks, "fallbacks")
    _check_fallbacks(recipe, wish)
    pairs = (("teachers", wish.teachers), ("fallbacks", wish.fallbacks))
    return [
        Named(field=f"{field}.{role}", role=role, name=name, card=_card(session, f"{field}.{role}", name, role in kept))
        for field, names in pairs
        for role, name in sorted(names.items())
        if (field, name) != ("teachers", OWN_BASE)
    ]


def check_suit(
    session: Session, named: Sequence[Named], recipe: Recipe, student: ModelFacts, longest: int, alignment: Alignment
) -> None:
    """Raises Invalid where a teacher does not suit the student and the recipe, with the nearest thing that would.
    `longest`: tokens, a lower bound."""
    own = {each.role: each for each in named if each.field.startswith("teachers.")}
    for each in named:
        first = own.get(each.role, each)
        try:
            if each.role in recipe.writers:
                _can_write(each, recipe)
            if each.role not in recipe.scorers:
                continue
            _suits(each, recipe, student, longest, alignment)
            _can_say(each, first, recipe, student)
        except _Unfit as error:
            near = nearest(session, each.name, each.card, each.role, recipe, student)
            remedy = " ".join(part for part in (error.problem.remedy, near) if part)
            raise Invalid(error.problem.detail, field=error.field, remedy=remedy) from error
        if each.card.tokenizer.fingerprint != first.card.tokenizer.fingerprint:
            raise Invalid(
                f"{each.field}: teacher {each.name} has another tokenizer than {first.name}, in whose stead it "
                "would be asked: one rollout would be put to the two in different tokens.",
                field=each.field,
                remedy=f"Choose a fallback with the tokenizer of {first.name}.",
            )
    _answer_alike(recipe, own, student)


def _answer_alike(recipe: Recipe, own: Mapping[str, Named], student: ModelFacts) -> None:
    """Rollouts of one context are learned from on one support, whichever teacher each of them has."""
    for name, router in recipe.routers.items():
        named = [own[role] for role in router.experts if role in own]
        wanted = [
            choose_support(recipe, each.name, each.card, recipe.needs(name), student.vocab_size) for each in named
        ]
        for each, theirs in zip(named[1:], wanted[1:], strict=True):
            if theirs.support is not wanted[0].support:
                raise Invalid(
                    f"{each.field}: teacher {each.name} would be asked for {theirs.support.value} and {named[0].name} "
                    f"for {wanted[0].support.value}, and context '{name}' routes between them.",
                    field=each.field,
                    remedy='Override {"sparse": {"always": true}}, so that all are asked for ids.',
                )


class _Unfit(Invalid):
    """Another teacher might do."""


def _cannot_write(field: str, name: str) -> _Unfit:
    return _Unfit(
        f"{field}: teacher {name} scores and writes no text, and the recipe asks this role for text.",
        field=field,
        remedy="Name a teacher that writes: any chat endpoint (`teachers add --kind openai`), or one of ours.",
    )


def _can_write(each: Named, recipe: Recipe) -> None:
    if not each.card.generates:
        raise _cannot_write(each.field, each.name)
    try:
        check_writes(each.field, each.name, each.card, recipe, each.role)
    except Invalid as error:
        raise _Unfit(error.problem.detail, field=each.field, remedy=error.problem.remedy) from error


def _can_say(each: Named, first: Named, recipe: Recipe, student: ModelFacts) -> None:
    """Whether a teacher gives what the role's contexts need: a fallback is asked for what its teacher would be."""
    for context in (name for name, context in recipe.contexts.items() if each.role in context.scorers):
        try:
            wanted = choose_support(recipe, first.name, first.card, recipe.needs(context), student.vocab_size)
            check_serves(wanted, each.name, each.card, student.vocab_size)
        except NoSupport as error:
            asking = askers(recipe, context)
            whose = f" (context '{context}'{f', for {asking}' if asking else ''})"
            raise _Unfit(f"{each.field}: {error.why}{whose}.", field=each.field, remedy=error.remedy) from error


def _check_roles(roles: Collection[str], wished: Mapping[str, str], field: str) -> None:
    if unknown := sorted(wished.keys() - set(roles)):
        known = ", ".join(sorted(roles)) or "none"
        raise Invalid(
            f"{field}.{unknown[0]}: the recipe has no such role; it has {known}.",
            field=f"{field}.{unknown[0]}",
            remedy="Leave it out, or name the role that you mean.",
        )


def check_vacant(recipe: Recipe, wish: RunCreate) -> None:
    """Raises Invalid where a role is left empty that somebody must fill: only a router can do without one of its."""
    _check_roles(recipe.roles, dict.fromkeys(wish.vacant, ""), "vacant")
    asked = {role: name for name, each in recipe.contexts.items() if each.router is None for role in each.scorers}
    for role in sorted(wish.vacant):
        others = [name for name, each in recipe.routers.items() if not set(each.experts) - set(wish.vacant)]
        why = None
        if role in wish.teachers:
            why = f"teacher {wish.teachers[role]} fills it"
        elif role in recipe.writers:
            why = "it is asked for text"
        elif role in asked:
            why = f"context '{asked[role]}' asks it about every rollout"
        elif role == "self" and recipe.teacher.kind != "frozen":
            why = f"the recipe moves its self-teacher ('{recipe.teacher.kind}')"
        elif role in wish.fallbacks:
            why = f"teacher {wish.fallbacks[role]} would be asked in nobody's stead (fallbacks)"
        elif others:
            why = f"the router of context '{others[0]}' would have nobody left to ask"
        if why is not None:
            raise Invalid(
                f"teachers.{role}: this role cannot be left empty: {why}.",
                field=f"teachers.{role}",
                remedy="Name a registered teacher for it.",
            )


def _check_fallbacks(recipe: Recipe, wish: RunCreate) -> None:
    """A fallback is there where a context asks for one, and nowhere else."""
    asked = {name: (*each.scorers, *each.writers) for name, each in recipe.contexts.items()}
    falling = [(name, role) for name, roles in sorted(asked.items()) for role in roles]
    falling = [(name, role) for name, role in falling if recipe.contexts[name].on_failure == "fallback"]
    for context, role in falling:
        if role not in wish.fallbacks:
            raise Invalid(
                f"fallbacks.{role}: the context {context} asks a fallback where its teacher gives no answer "
                "(on_failure), and the run names none for this role.",
                field=f"fallbacks.{role}",
                remedy=f'Name a registered teacher: {{"fallbacks": {{"{role}": "NAME"}}}}.',
            )
    for role, name in sorted(wish.fallbacks.items()):
        if role not in (each for _, each in falling):
            context = next((name for name, roles in sorted(asked.items()) if role in roles), None)
            override = f'{{"contexts": {{"{context}": {{"on_failure": "fallback"}}}}}}'
            raise Invalid(
                f"fallbacks.{role}: teacher {name} would never be asked: no context of this role has "
                "on_failure = fallback.",
                field=f"fallbacks.{role}",
                remedy="Leave it out." if context is None else f"Leave it out, or override: {override}.",
            )
        if name == wish.teachers[role]:
            raise Invalid(
                f"fallbacks.{role}: teacher {name} fills this role already, and would be asked in its own stead.",
                field=f"fallbacks.{role}",
                remedy="Name another teacher.",
            )


def _card(session: Session, field: str, name: str, kept: bool) -> Card:
    card = registered(session, field, name, kept=kept).card
    assert card is not None, "it is ready, or was"
    return card


def registered(session: Session, field: str, name: str, *, kept: bool = False) -> models.Teacher:
    """A teacher that takes new runs, or is `kept` by one that it has. Raises Invalid, naming the field."""
    teacher = teachers.find(session, name)
    if teacher is None:
        known = [each.name for each in teachers.every(session)]
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}." if known else "Register one."
        raise Invalid(f"{field}: there is no teacher {name[:100]!r}.", field=field, remedy=hint)
    state = teacher_state(teacher)
    if teacher.card is None or (state is not TeacherState.READY and not kept):
        raise Invalid(
            f"{field}: teacher {name} is {state.value}, and takes no new runs.",
            field=field,
            remedy=f"See why with GET /v1/teachers/{name}, and probe it again.",
        )
    return teacher


def _suits(each: Named, recipe: Recipe, student: ModelFacts, longest: int, alignment: Alignment) -> None:
    """Whether a teacher can say what the recipe wants to know of this student."""
    field, name, card = each.field, each.name, each.card
    if not card.supports:
        raise _Unfit(
            f"{field}: teacher {name} is a text teacher: it writes, and gives no scores to learn from.",
            field=field,
            remedy="Choose a teacher that offers a support.",
        )
    foreign = card.tokenizer.fingerprint != student.fingerprint
    if foreign:
        _can_be_aligned(each, recipe.needs_of(each.role), student, alignment)
    if card.values is not Values.RAW:
        raise _Unfit(
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


def _can_be_aligned(each: Named, need: Support, student: ModelFacts, alignment: Alignment) -> None:
    """Whether a teacher with another tokenizer than the student's can be heard all the same."""
    field, name, card = each.field, each.name, each.card
    if alignment == "ids":
        stated = card.tokenizer.fingerprint
        its = f"its tokenizer is {stated[:19]}" if stated else "its tokenizer is not known"
        raise _Unfit(
            f"{field}: teacher {name} reads other tokens than the student does ({its}, the student's "
            f"{student.fingerprint[:19]}).",
            field=field,
            remedy='Choose a teacher with the student\'s tokenizer, or set alignment = "bytes" and a recipe that needs '
            "no more than the sampled tokens' scores.",
        )
    if need is not Support.SAMPLED:
        raise Invalid(
            f"alignment: teacher {name} has another tokenizer, so that only what was written can be scored, and the "
            f"recipe needs the support {need.value}: distributions over other tokens cannot be compared.",
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
