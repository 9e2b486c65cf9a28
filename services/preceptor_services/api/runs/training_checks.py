"""Whether a run's training settings can have the effect that they promise, given its recipe and its teachers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid
from preceptor.wire.artifacts import ModelFacts
from preceptor.wire.runs import RunCreate, RunState, Training
from preceptor.wire.teachers import OWN_BASE, SAMPLER, Support
from preceptor_services.api.runs.teacher_checks import Named
from preceptor_services.db import models
from preceptor_trainer.parts.divergences import Pointwise
from preceptor_trainer.recipe import Recipe, Term
from preceptor_trainer.support import choose_support

MOVED = "self"
"""The role whose teacher a recipe may move."""


def check_training(
    session: Session, wish: RunCreate, recipe: Recipe, training: Training, student: ModelFacts, named: Sequence[Named]
) -> None:
    """Raises Invalid where a setting could have no effect, or not the one it names."""
    _check_adapters(recipe, training)
    _check_guards(recipe, training)
    check_taught(session, wish, recipe, training, student, named)


def check_taught(
    session: Session,
    wish: RunCreate,
    recipe: Recipe,
    training: Training,
    student: ModelFacts,
    named: Sequence[Named],
    but: str | None = None,
) -> None:
    """Raises Invalid where it could not with these teachers. `but`: as in `check_alone`."""
    _check_own_base(wish)
    _check_tail(recipe, training, student, named)
    _check_sparse(wish, recipe, student, named)
    _check_moves(wish, recipe, {each.role: each for each in named if each.field.startswith("teachers.")})
    fields = {each.name: each.field for each in named}
    if wish.sampler is not None:
        fields[wish.sampler] = SAMPLER
    try:
        check_alone(session, fields, moved(recipe.teacher.kind, wish.teachers, wish.sampler), but)
    except Conflict as error:
        field = fields[error.problem.field or ""]
        raise Invalid(f"{field}: {error.problem.detail}", field=field, remedy=error.problem.remedy) from error


def moves(kind: str) -> bool:
    """Whether a self-teacher that is updated so takes new weights."""
    return kind != "frozen"


def moved(kind: str, teachers: Mapping[str, str], sampler: str | None) -> frozenset[str]:
    """Names of the teachers that a run sends new weights; `kind` is how its self-teacher is updated."""
    found = {teachers[MOVED]} if moves(kind) and MOVED in teachers else set[str]()
    return frozenset(found if sampler is None else found | {sampler})


def check_alone(session: Session, names: Collection[str], ours: Collection[str], but: str | None = None) -> None:
    """Raises Conflict, whose field is the teacher's name, where two unended runs would use a teacher that one of them
    moves. `names`: all that this run asks; `ours`: those that it moves. `but`: a run that does not count, since it is
    the one that asks."""
    runs, asked = models.Run, models.RunTeacher
    ended = [state.value for state in RunState if state.ended]
    query = (
        select(runs.id, runs.resolved, asked.role, asked.teacher, asked.fallback)
        .join(asked, asked.run_id == runs.id)
        .where(runs.state.not_in(ended), or_(asked.teacher.in_(names), asked.fallback.in_(names)))
    )
    for run_id, resolved, role, teacher, fallback in session.execute(query):
        if run_id == but:
            continue
        moves_it = role == SAMPLER or (role == MOVED and moves(resolved["teacher"]["kind"]))
        theirs = moves_it and teacher in names
        mine = {teacher, fallback}.intersection(ours)
        if theirs or mine:
            name = teacher if theirs else min(mine)
            raise Conflict(
                f"Teacher {name} is used by run {run_id}, and {'that' if theirs else 'this'} run sends it new weights.",
                field=name,
                remedy="Wait until that run has ended, or register another endpoint under another name.",
            )


def _check_adapters(recipe: Recipe, training: Training) -> None:
    if training.lora is not None and recipe.constraint.kind != "all":
        raise Invalid(
            f"training.lora: only adapters move, and the recipe's constraint ('{recipe.constraint.kind}') is about the "
            "student's own weights.",
            field="training.lora",
            remedy='Leave one of them out; {"constraint": {"kind": "all"}} takes back the recipe\'s.',
        )


def _check_own_base(wish: RunCreate) -> None:
    for role, name in sorted(wish.teachers.items()):
        if name != OWN_BASE:
            continue
        if role in wish.fallbacks:
            raise Invalid(
                f"fallbacks.{role}: '{OWN_BASE}' answers in the worker's own process, so that nobody is ever asked "
                "in its stead.",
                field=f"fallbacks.{role}",
                remedy="Leave it out.",
            )


def _check_guards(recipe: Recipe, training: Training) -> None:
    guards = training.guards
    for name in ("repetition", "length"):
        if getattr(guards, name) is not None and recipe.rollout.kind == "dataset":
            raise Invalid(
                f"training.guards.{name}: it watches what the student writes, and this recipe learns from the data's "
                "completions.",
                field=f"training.guards.{name}",
                remedy="Leave it out.",
            )
    if "clip" in guards.model_fields_set and guards.clip is not None and not any(map(_clips, recipe.objective)):
        raise Invalid(
            "training.guards.clip: no term of the recipe clips the events of a KL, so that there is nothing to watch.",
            field="training.guards.clip",
            remedy='Leave it out, or override: {"objective.0.clip": 0.05}.',
        )


def _check_tail(recipe: Recipe, training: Training, student: ModelFacts, named: Sequence[Named]) -> None:
    if training.guards.tail is not None and not any(_is_sparse(recipe, each, student) for each in named):
        raise Invalid(
            "training.guards.tail: no teacher of this run answers with a sparse support, so that nothing is left out.",
            field="training.guards.tail",
            remedy='Leave it out, or override: {"sparse": {"always": true}}.',
        )


def _check_sparse(wish: RunCreate, recipe: Recipe, student: ModelFacts, named: Sequence[Named]) -> None:
    own = OWN_BASE in wish.teachers.values() and recipe.sparse.always  # which gives whatever it is asked for
    asked = any(name.split(".")[0] == "sparse" for name in wish.overrides)
    if not asked or own or any(_is_sparse(recipe, each, student) for each in named):
        return
    raise Invalid(
        "overrides.sparse: every teacher of this run answers with what was written or with whole distributions: no ids "
        "are chosen.",
        field="overrides.sparse",
        remedy='Leave it out, or set {"always": true} with an objective that takes a sparse support.',
    )


def _clips(term: Term) -> bool:
    return isinstance(term, Pointwise) and term.one_sided and term.clip is not None and term.clip_by == "event"


def _is_sparse(recipe: Recipe, each: Named, student: ModelFacts) -> bool:
    contexts = [name for name, context in recipe.contexts.items() if each.role in context.scorers]
    chosen = [choose_support(recipe, each.name, each.card, recipe.needs(name), student.vocab_size) for name in contexts]
    return any(wanted.support in (Support.TOPK, Support.IDS) for wanted in chosen)


def _check_moves(wish: RunCreate, recipe: Recipe, teachers: Mapping[str, Named]) -> None:
    if not moves(recipe.teacher.kind):
        return
    field = f"teachers.{MOVED}"
    if wish.teachers[MOVED] == OWN_BASE:
        raise Invalid(
            f"{field}: the recipe moves its self-teacher ('{recipe.teacher.kind}'), and '{OWN_BASE}' stays as it is.",
            field=field,
            remedy='Name a registered teacher that takes weights, or override: {"teacher": {"kind": "frozen"}}.',
        )
    if not teachers[MOVED].card.moves:
        raise Invalid(
            f"{field}: the recipe moves its self-teacher ('{recipe.teacher.kind}'), and teacher "
            f"{teachers[MOVED].name} takes no new weights.",
            field=field,
            remedy='Start it with --takes-weights and probe it again, or override: {"teacher": {"kind": "frozen"}}.',
        )
    if MOVED in wish.fallbacks:
        raise Invalid(
            f"fallbacks.{MOVED}: nobody can stand in for a self-teacher that moves: it alone has the weights.",
            field=f"fallbacks.{MOVED}",
            remedy="Leave it out.",
        )
