"""What is found wrong with a wish for a pair, besides what would be wrong with its two runs alone."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind, DatasetFacts
from preceptor.wire.codistillations import PEER, CodistillationCreate, SideCreate
from preceptor.wire.data import TaskSource
from preceptor.wire.pairs import Side
from preceptor.wire.runs import Run
from preceptor_services.api.artifacts.service import ready_facts
from preceptor_services.api.runs.pairs import SIDES
from preceptor_services.api.runs.recipe_checks import recipe_of
from preceptor_trainer import tasks
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.standing import WHOLE

LONGEST_NAME = 98
"""Characters of a pair's name: its students are registered as NAME-a and NAME-b, and a teacher's name has 100."""


def side_of(wish: CodistillationCreate, side: Side) -> SideCreate:
    """One of the two."""
    return wish.a if side == "a" else wish.b


@contextmanager
def of_side(side: Side) -> Generator[None]:
    """What is wrong with a run is wrong with this side's: the field says so."""
    try:
        yield
    except Invalid as error:
        field = f"{side}.run.{error.field}" if error.field else f"{side}.run"
        raise Invalid(f"{side}.run.{error.problem.detail}", field=field, remedy=error.problem.remedy) from error


def check_pair(session: Session, wish: CodistillationCreate) -> None:
    """Raises Invalid, naming the field, where the two cannot teach each other."""
    one, other = wish.a.run, wish.b.run
    if len(wish.name or "") > LONGEST_NAME:
        raise Invalid(
            f"name: it has {len(wish.name or '')} characters; its students are registered as NAME-a and NAME-b, which "
            f"leaves {LONGEST_NAME}.",
            field="name",
            remedy="Choose a shorter one.",
        )
    if one == other or (one.name is not None and one.name == other.name):
        what = f"the run {one.name}" if one.name is not None else "the same run"
        raise Invalid(
            f"b.run: both sides name {what}; a student cannot be its own peer.",
            field="b.run" if one == other else "b.run.name",
            remedy="Give each side a run of its own: another student, other data, or another seed, and another name.",
        )
    for side in SIDES:
        _check_side(side, side_of(wish, side))
    _check_domains(session, wish)


def check_devices(side: Side, run: Run) -> None:
    """Raises Invalid where a side, as it would be trained, takes more than one device."""
    if run.training.devices > 1:
        field = f"{side}.run.training.devices"
        raise Invalid(f"{field}: a side of a pair is trained on one device.", field=field, remedy="Leave it out.")


def on_loss(side: Side, wish: SideCreate) -> dict[str, Any]:
    """Changes to a side's recipe: what nobody answers for is left out, because how long a peer is waited for, and what
    then, is the pair's to say. Raises Invalid."""
    recipe = _recipe(side, wish)
    mine = {name: each for name, each in recipe.contexts.items() if PEER in (*each.scorers, *each.writers)}
    for name, each in mine.items():
        if each.on_failure == "fallback":
            raise Invalid(
                f"{side}.run.overrides: context '{name}' asks a fallback where the peer gives no answer, and what "
                "happens then is said by the pair (policy.on_loss).",
                field=f"{side}.run.overrides",
                remedy="Leave on_failure out.",
            )
    return {f"contexts.{name}.on_failure": "drop" for name in mine}


def _recipe(side: Side, wish: SideCreate) -> Recipe:
    with of_side(side):
        return recipe_of(wish.run)


def _check_side(side: Side, wish: SideCreate) -> None:
    run, recipe = wish.run, _recipe(side, wish)
    if PEER not in recipe.roles:
        roles = ", ".join(sorted(recipe.roles)) or "none"
        raise Invalid(
            f"{side}.run.recipe: '{run.recipe}' asks no peer: it has no role '{PEER}' (its roles: {roles}).",
            field=f"{side}.run.recipe",
            remedy="Choose one that has: peer_opd learns from the peer's scores, opcod from its feedback.",
        )
    for field, named in (("teachers", run.teachers), ("fallbacks", run.fallbacks)):
        if PEER in named:
            raise Invalid(
                f"{side}.run.{field}.{PEER}: the other side's student fills this role.",
                field=f"{side}.run.{field}.{PEER}",
                remedy="Leave it out.",
            )
    for index, domain in enumerate(wish.teaches):
        if not domain.strip() or domain in wish.teaches[:index]:
            field = f"{side}.teaches.{index}"
            what = "it is blank" if not domain.strip() else f"{domain!r} is named twice"
            raise Invalid(f"{field}: {what}.", field=field, remedy="Leave it out.")


def _check_domains(session: Session, wish: CodistillationCreate) -> None:
    """Where the pair says who teaches what: every domain of the data is taught, and nothing else."""
    taught = {*wish.a.teaches, *wish.b.teaches}
    if not taught:
        return
    found = {side: _domains(session, side, side_of(wish, side)) for side in SIDES}
    for side, domains in found.items():
        if untaught := sorted((domains or frozenset()) - taught):
            raise Invalid(
                f"{side}.run.data: {_said(untaught[0])}, and neither side teaches that "
                f"(taught: {', '.join(sorted(taught))}).",
                field=f"{side}.run.data",
                remedy="Name it in a.teaches or b.teaches; or leave both out, and whoever is better teaches.",
            )
    if None in found.values():
        return
    known = frozenset[str]().union(*(each for each in found.values() if each))
    for side in SIDES:
        if unknown := sorted(set(side_of(wish, side).teaches) - known):
            raise Invalid(
                f"{side}.teaches: no task of either side is of the domain '{unknown[0]}'; there are "
                f"{', '.join(sorted(known))}.",
                field=f"{side}.teaches",
                remedy="Name one of those.",
            )


def _said(domain: str) -> str:
    if domain == WHOLE:
        return f"it has tasks that name no domain ('{WHOLE}')"
    return f"it has tasks of the domain '{domain}'"


def _domains(session: Session, side: Side, wish: SideCreate) -> frozenset[str] | None:
    """The domains of a side's tasks, `WHOLE` for those that name none; None where that shows only as it runs."""
    data = wish.run.data
    if isinstance(data, TaskSource):
        try:
            task = tasks.load(data.task, data.options)
        except ValueError:  # said in full where the run is looked at
            return None
        if "domain" not in task.columns:
            return frozenset({WHOLE})
        return frozenset(task.values["domain"]) if "domain" in task.values else None
    with of_side(side):
        facts = ready_facts(session, data.artifact, ArtifactKind.DATASET, "data.artifact")
    assert isinstance(facts, DatasetFacts)
    column = facts.columns.get(data.column("domain"))
    if column is None or not column.filled:
        return frozenset({WHOLE})
    if column.values is None:
        return None
    return frozenset(column.values) | ({WHOLE} if column.filled < facts.rows else frozenset())
