"""Other teachers for a run that was accepted: checked as at submit, and heard by its worker, which follows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid
from preceptor.wire.fillings import Refill
from preceptor.wire.runs import Run, RunCreate, RunState
from preceptor.wire.teachers import OWN_BASE
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history, pairs
from preceptor_services.api.runs.checks import check_filled
from preceptor_services.api.runs.refills import NOBODY
from preceptor_services.api.runs.roles import Roles, roles_of
from preceptor_services.api.runs.service import show
from preceptor_services.api.runs.training_checks import MOVED, moves
from preceptor_services.api.teachers import service as teachers
from preceptor_services.db import models
from preceptor_services.db.session import Unit
from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe


def refill(plane: Plane, unit: Unit, run_id: str, wish: Refill, key_id: str) -> Run:
    """Have these teachers fill these roles from now on. Who fills one already changes nothing.

    Raises Invalid where one does not suit, Conflict where the run is over, or cannot do this while a worker has it.
    """
    session, at = unit.session, plane.clock()
    teachers.hold(session, (each for each in wish.teachers.values() if each is not None))
    run = history.get(session, run_id, lock=True)
    if run.state == RunState.SUCCEEDED.value:
        raise Conflict(f"Run {run_id} has succeeded already.", remedy="Start a new run.")
    roles, recipe = roles_of(session, [run_id]).get(run_id, Roles()), _recipe(run)
    new = {role: name for role, name in wish.teachers.items() if roles.teachers.get(role) != name}
    if unknown := sorted(new.keys() - recipe.roles):
        raise Invalid(
            f"teachers.{unknown[0]}: the run has no such role; it has {', '.join(sorted(recipe.roles)) or 'none'}.",
            field=f"teachers.{unknown[0]}",
            remedy="Name one of them.",
        )
    if new:
        _check_changeable(session, run, recipe, roles, new)
        _check_suit(session, run, recipe, roles, new)
        _fill(session, run, roles, new, key_id, at)
    return show(session, run_id)


def _recipe(run: models.Run) -> Recipe:
    """What the run was accepted with, whatever has become of its file."""
    try:
        recipes.load(run.recipe)  # and with it the parts that this recipe alone uses
    except (recipes.UnknownRecipe, recipes.BrokenRecipe) as error:
        raise Conflict(f"The teachers of run {run.id} cannot be checked: {error}.", field="recipe") from error
    return Recipe.model_validate(run.resolved)


def _check_changeable(
    session: Session, run: models.Run, recipe: Recipe, roles: Roles, new: Mapping[str, str | None]
) -> None:
    """Raises Invalid and Conflict for roles that are not filled by just anybody, or not while they are in use."""
    pair = pairs.grant_of(session, run.id)
    if pair is not None and pair.role in new:
        raise Invalid(
            f"teachers.{pair.role}: the other side's student fills this role.",
            field=f"teachers.{pair.role}",
            remedy="Leave it out.",
        )
    growing = {role for each in recipe.state.values() for role in each.writers}
    for role, name in sorted(new.items()):
        why = None
        if OWN_BASE in (roles.teachers.get(role), name):
            why = f"'{OWN_BASE}' is the worker's own copy of the student, made when it takes the run"
        elif role == MOVED and moves(recipe.teacher.kind):
            why = f"the recipe moves its self-teacher ('{recipe.teacher.kind}'), which has the run's own weights"
        elif role in growing:
            why = "it writes what the run keeps (state) between steps"
        if why is not None and run.state == RunState.RUNNING.value:
            raise Conflict(
                f"teachers.{role}: this role is not refilled while a worker has the run: {why}.",
                field=f"teachers.{role}",
                remedy=f"Pause the run (`preceptor runs pause {run.id}`), name the teacher, and resume it.",
            )


def _check_suit(session: Session, run: models.Run, recipe: Recipe, roles: Roles, new: Mapping[str, str | None]) -> None:
    named = {role: name for role, name in {**roles.teachers, **new}.items() if name is not None}
    wish = RunCreate(
        recipe=run.recipe,
        overrides=run.overrides,
        student=run.student,
        teachers=named,
        fallbacks=roles.fallbacks,
        vacant=tuple(sorted(recipe.roles - named.keys())),
        data=run.data,
        alignment=run.alignment,
        sampler=roles.sampler,
        skills=run.skills,
    )
    check_filled(session, wish, recipe, run.training, named.keys() - new.keys(), run.id)


def _fill(
    session: Session, run: models.Run, roles: Roles, new: Mapping[str, str | None], key_id: str, at: datetime
) -> None:
    table = models.Refill
    last = session.scalar(select(func.max(table.number)).where(table.run_id == run.id)) or 0
    said: list[str] = []
    for number, (role, name) in enumerate(sorted(new.items()), last + 1):
        held, left = session.get(models.RunTeacher, (run.id, role)), roles.teachers.get(role)
        if held is not None and name is not None:
            held.teacher = name
        elif held is not None:
            session.delete(held)
        else:
            session.add(models.RunTeacher(run_id=run.id, role=role, teacher=name))
        session.add(
            table(
                run_id=run.id,
                number=number,
                role=role,
                left=left,
                joined=name,
                at=at,
                fence=run.fence,
                created_by=key_id,
            )
        )
        said.append(f"Role {role}: {name or NOBODY} fills it in place of {left or NOBODY}.")
    run.updated_at = at
    session.flush()
    history.tell(session, run.id, [("note", {"message": each}) for each in said], at)
