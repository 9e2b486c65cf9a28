"""Whether the skill bank that a run names can serve it, and which version of it the run is to read."""

from __future__ import annotations

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.resources.skills import pinned
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import RunCreate
from preceptor_services.db import models
from preceptor_trainer.parts.skill_banks import SkillBank
from preceptor_trainer.recipe import Recipe

BANK_COLUMNS = frozenset({"skill", "mistake", "skill_score"})
"""Task fields that a bank fills in."""


def check_skills(session: Session, recipe: Recipe, wish: RunCreate) -> tuple[Recipe, str | None]:
    """The recipe as the data has to serve it, and the bank with its version. Raises Invalid.

    What the bank fills in need not be in the data; what it gives goes before what the data has.
    """
    growing = any(isinstance(each, SkillBank) for each in recipe.state.values())
    if wish.skills is None:
        if growing:
            raise _bad(
                "the recipe lets a skill bank grow (state), and the run names none.",
                'Name one, as in "bank@3"; an empty one will do.',
            )
        return recipe, None
    reading = {name for name, context in recipe.contexts.items() if BANK_COLUMNS & set(context.columns)}
    if not reading:
        raise _bad(
            f"no context of recipe {wish.recipe} shows skills, so that the bank would not be read.",
            "Leave it out, or choose a recipe that reads one, such as sgsd.",
        )
    bank, version = _bank(session, wish.skills)
    task = wish.data.task if isinstance(wish.data, TaskSource) else None
    if bank.task is not None and bank.task != task:
        learned = f"learns {task}" if task else "learns rows of its own"
        raise _bad(
            f"bank {bank.name} is of the task {bank.task}, and this run {learned}.",
            "Name a bank of the run's task, or one that is of none.",
        )
    held = session.get(models.SkillBankVersion, (bank.name, version))
    if not growing and (held is None or held.skills == 0):
        raise _bad(f"{bank.name}@{version} holds no skill.", "Publish skills to the bank first.")
    left = {name: each for name, each in recipe.contexts.items() if not set(each.columns) <= BANK_COLUMNS}
    for name, each in recipe.state.items():
        if isinstance(each, SkillBank) and each.cold_start and each.guide is not None:
            left[f"state.{name}.guide"] = each.guide  # the data has to serve it like any context
    return recipe.model_copy(update={"contexts": left}), f"{bank.name}@{version}"


def _bank(session: Session, wished: str) -> tuple[models.SkillBank, int]:
    name, version = pinned(wished)
    bank = session.get(models.SkillBank, name)
    if bank is None:
        raise _bad(f"there is no skill bank {name!r}.", "`preceptor skills list` lists them.")
    if version is not None and version > bank.version:
        raise _bad(
            f"skill bank {name} has no version {version}; its latest is {bank.version}.",
            f"Write {name}@{bank.version}, or {name} alone for the latest.",
        )
    return bank, bank.version if version is None else version


def _bad(what: str, remedy: str) -> Invalid:
    return Invalid(f"skills: {what}", field="skills", remedy=remedy)
