"""What is found wrong with a wish for a pair, besides what would be wrong with its two runs alone."""

from __future__ import annotations

from typing import Any

from preceptor.errors import Invalid
from preceptor.wire.codistillations import PEER, CodistillationCreate, SideCreate
from preceptor.wire.data import TaskSource
from preceptor.wire.pairs import Side
from preceptor_services.api.runs.pairs import SIDES
from preceptor_services.api.runs.recipe_checks import recipe_of
from preceptor_trainer import tasks


def side_of(wish: CodistillationCreate, side: Side) -> SideCreate:
    """One of the two."""
    return wish.a if side == "a" else wish.b


def check_pair(wish: CodistillationCreate) -> None:
    """Raises Invalid, naming the field, where the two cannot teach each other."""
    one, other = wish.a.run, wish.b.run
    if one == other or (one.name is not None and one.name == other.name):
        what = f"the run {one.name}" if one.name is not None else "the same run"
        raise Invalid(
            f"b.run: both sides name {what}; a student cannot be its own peer.",
            field="b.run" if one == other else "b.run.name",
            remedy="Give each side a run of its own: another student, other data, or another seed, and another name.",
        )
    for side in SIDES:
        _check_side(side, side_of(wish, side))
    _check_domains(wish)


def on_loss(side: Side, wish: SideCreate) -> dict[str, Any]:
    """Changes to a side's recipe: what nobody answers for is left out, because how long a peer is waited for, and what
    then, is the pair's to say. Raises Invalid."""
    recipe = recipe_of(wish.run)
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


def _check_side(side: Side, wish: SideCreate) -> None:
    run = wish.run
    recipe = recipe_of(run)
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
    if int(run.training.get("devices", 1)) > 1:
        raise Invalid(
            f"{side}.run.training.devices: a side of a pair is trained on one device.",
            field=f"{side}.run.training.devices",
            remedy="Leave it out.",
        )


def _check_domains(wish: CodistillationCreate) -> None:
    """Where the pair says who teaches what: every domain of the data is taught, and nothing else."""
    taught = {*wish.a.teaches, *wish.b.teaches}
    if not taught:
        return
    found = {side: _domains(side_of(wish, side)) for side in SIDES}
    for side, domains in found.items():
        if untaught := sorted(domains - taught):
            raise Invalid(
                f"{side}.run.data: its tasks are of the domain '{untaught[0]}' as well, and neither side teaches that "
                f"(taught: {', '.join(sorted(taught))}).",
                field=f"{side}.run.data",
                remedy="Name it in a.teaches or b.teaches; or leave both out, and whoever is better teaches.",
            )
    known = found["a"] | found["b"]
    for side in SIDES:
        if known and (unknown := sorted(set(side_of(wish, side).teaches) - known)):
            raise Invalid(
                f"{side}.teaches: no task of either side is of the domain '{unknown[0]}'; there are "
                f"{', '.join(sorted(known))}.",
                field=f"{side}.teaches",
                remedy="Name one of those.",
            )


def _domains(side: SideCreate) -> frozenset[str]:
    """The domains of a side's tasks; none where that shows only in the rows."""
    data = side.run.data
    if not isinstance(data, TaskSource) or data.task not in tasks.names():
        return frozenset()
    return frozenset(tasks.load(data.task, data.options).values.get("domain", ()))
