"""What is trained: which recipe, in which arm, on which task, with how much; and why a recipe is left out.

An arm is what a self-teacher is shown. `right`: what the recipe says. `wrong`: the same around corrupted content.
`none`: the plain prompt in its place. A gain that is there in all three does not come from the privileged content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from preceptor_trainer import recipes, tasks
from preceptor_trainer.parts.routers import ByColumn
from preceptor_trainer.recipe import Context, Recipe

ARMS = ("right", "wrong", "none")
BASELINES = ("sft", "grpo")
NEGATIVE = frozenset({"wrong_answer", "peer_failure"})
"""Contexts whose content is wrong in every arm."""
SCRIPTED = frozenset({"spell_backward", "chain_sum", "two_domains"})
"""Tasks of which the scripted text teacher knows how to speak."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every cell may use. Equal for all, whatever they make of it."""

    tokens: int = 6_000
    """Completion tokens to be learned from: the student's own, or the data's where it writes none. A run ends with the
    first evaluation at or after them."""
    rollouts: int = 64
    """A step: so many tasks, or fewer where each is answered several times."""
    every: int = 2
    """Steps between two evaluations."""
    items: int = 200
    """Held-out questions of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of the benchmark."""

    task: str
    options: Mapping[str, Any] = field(hash=False)
    recipe: str
    arm: str
    seed: int
    learning_rate: float
    split: str
    """Which questions it is judged on: `held_out`, or `validation` where a learning rate is chosen."""
    budget: Budget

    @property
    def name(self) -> str:
        """A file's, without its ending."""
        return f"{self.recipe}-{self.arm}-{self.split}-lr{self.learning_rate:g}-seed{self.seed}"

    def settings(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return asdict(self)


def shown(recipe: Recipe) -> dict[str, Context]:
    """The contexts that the arms change: those whose content could be wrong, and is right."""
    return {
        name: context
        for name, context in recipe.contexts.items()
        if "wrong" in type(context).model_fields and context.kind not in NEGATIVE
    }


def arms(name: str) -> tuple[str, ...]:
    """The arms of a recipe: one, where it shows nothing."""
    return ARMS if shown(recipes.load(name)) else ARMS[:1]


def recipe_of(cell: Cell) -> Recipe:
    """The recipe of a cell, its arm and the task's horizon."""
    recipe = with_domains(cell.recipe, cell.task)
    room = tasks.load(cell.task, cell.options).answer_tokens + 1
    changes: dict[str, Any] = {"rollout": {"max_tokens": room}, "contexts": {}}
    for name, context in shown(recipe).items():
        if cell.arm == "wrong":
            changes["contexts"][name] = {"wrong": True}
        elif cell.arm == "none":
            changes["contexts"][name] = {"kind": "plain", "teacher": context.teacher}
    if "guide" in type(recipe.rollout).model_fields and cell.arm != "right":
        # Whoever writes guided rollouts reads what the teacher reads.
        changes["rollout"] |= {"guide": {"wrong": True}} if cell.arm == "wrong" else {"share": 0.0}
    return recipe.override(changes)


def missing(name: str, task: str, options: Mapping[str, Any]) -> str | None:
    """Why a recipe cannot be trained on a task; None: it can."""
    recipe, source = recipes.load(name), tasks.load(task, options)
    needed = {column for context in recipe.contexts.values() for column in context.columns}
    needed |= {column for router in recipe.routers.values() for column in router.columns}
    needed |= set(recipe.rollout.columns)
    if lacking := sorted(needed - source.columns):
        return f"needs the column {', '.join(lacking)}"
    written = {context.kind for context in recipe.contexts.values() if context.writers} - source.columns
    if written and task not in SCRIPTED:
        return f"wants a {', '.join(sorted(written))} written, and the scripted teacher does not know this task"
    return None


def experts(recipe: Recipe) -> dict[str, str]:
    """The roles that somebody better than the student has to fill, since they are shown no more than it is; and of
    which domain each is (none: of all)."""
    plain, informed = dict[str, str](), {"self"}
    for each in recipe.contexts.values():
        if each.kind == "plain":
            plain |= {role: "" if each.router is None else role for role in each.scorers}
        else:
            informed.update(each.scorers)
    return {role: domain for role, domain in plain.items() if role not in informed}


def training(cell: Cell) -> dict[str, Any]:
    """Settings of the run. Steps without end, nearly: the budget ends it."""
    samples = recipes.load(cell.recipe).rollout.samples
    return {
        "steps": 100_000,
        "batch": max(1, cell.budget.rollouts // samples),
        "learning_rate": cell.learning_rate,
        "warmup_steps": 5,
        "seed": cell.seed,
        "evaluate_items": cell.budget.items,
        "evaluate_every": cell.budget.every,
    }


def with_domains(name: str, task: str) -> Recipe:
    """The recipe, its domains called by the names that the task has."""
    recipe, domains = recipes.load(name), list(tasks.load(task).values.get("domain", ()))
    routed = [name for name, router in recipe.routers.items() if domains and isinstance(router, ByColumn)]
    return recipe.override({f"contexts.{name}.router.domains": domains for name in routed})
