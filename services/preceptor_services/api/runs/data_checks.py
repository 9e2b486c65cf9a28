"""Whether a run's data has what its recipe and its verifier need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind, DatasetFacts, ModelFacts
from preceptor.wire.data import PARTS, DatasetSource, DataSpec, TaskSource
from preceptor.wire.runs import Training
from preceptor_services.api.artifacts import service as artifacts
from preceptor_trainer import tasks, verifiers
from preceptor_trainer.recipe import REWARD, Recipe

PROMPTS = ("prompt", "messages")


def check_data(session: Session, recipe: Recipe, spec: DataSpec, training: Training, student: ModelFacts) -> int:
    """A lower bound of the longest prompt, in the student's tokens (0: nothing is known). Raises Invalid."""
    if isinstance(spec, TaskSource):
        _check_task(recipe, spec)
        return 0
    facts = _dataset(session, spec)
    _check_verifier(recipe, spec)
    _check_columns(recipe, spec, facts)
    _check_rows(spec, facts, training)
    _check_routes(recipe, lambda part: _values(facts, spec.column(part)))
    lengths = (facts.columns[column].longest for column in map(spec.column, PROMPTS) if column in facts.columns)
    return max(lengths, default=0) // max(student.longest_token, 1)


def _check_task(recipe: Recipe, spec: TaskSource) -> None:
    if spec.task not in tasks.names():
        near = get_close_matches(spec.task, tasks.names(), n=1)
        known = ", ".join(tasks.names())
        raise Invalid(
            f"data.task: there is no task {spec.task[:100]!r}; there are {known}.",
            field="data.task",
            remedy=f"Did you mean {near[0]}?" if near else "Choose one of them.",
        )
    try:
        task = tasks.load(spec.task, spec.options)
    except ValueError as error:
        raise Invalid(f"data.options: {str(error)[:500]}.", field="data.options") from error
    for need in _needs(recipe, None):
        if need.column not in task.columns:
            has = ", ".join(sorted(task.columns))
            raise Invalid(
                f"data.task: {need.who} needs the column '{need.column}', which task {spec.task} lacks; it has {has}.",
                field="data.task",
                remedy="Choose another task or another recipe.",
            )
    _check_routes(recipe, task.values.get)


def _check_routes(recipe: Recipe, values: Callable[[str], Iterable[str] | None]) -> None:
    """Raises Invalid where the data is known to hold what no teacher is for. `values`: what a column says, or None
    where that is not known: what is wrong then fails the run where it comes up."""
    for name, router in recipe.routers.items():
        for column in router.columns:
            for value in values(column) or ():
                if router.unheard(column, value):
                    raise Invalid(
                        f"contexts.{name}.router: the data's column '{column}' says {value!r}, and there is no teacher "
                        f"for it; there are {', '.join(router.experts)}.",
                        field=f"overrides.contexts.{name}.router",
                        remedy=f"Name a role for it (domains), one for all others (otherwise), or say that nobody is "
                        f'asked about it: {{"silent": ["{value}"]}}.',
                    )


def _values(facts: DatasetFacts, column: str) -> tuple[str, ...] | None:
    return facts.columns[column].values if column in facts.columns else None


@dataclass(frozen=True, slots=True)
class _Need:
    """A column that somebody cannot do without."""

    who: str
    column: str
    everywhere: bool
    """Whether every row must have it; else a row that lacks it is passed over."""


def _needs(recipe: Recipe, verifier: str | None) -> Iterable[_Need]:
    for name, context in recipe.contexts.items():
        yield from (_Need(f"context '{name}'", column, False) for column in context.columns)
    for name, router in recipe.routers.items():
        yield from (_Need(f"the router of context '{name}'", column, False) for column in router.columns)
    judge = recipe.verifier or (None if verifier is None else verifiers.load(verifier))
    if judge is not None:
        learned = recipe.readers(REWARD)
        whose = f", whose rewards {' and '.join(learned)} reads," if learned else ""
        yield from (_Need(f"verifier '{judge.kind}'{whose}", column, True) for column in judge.columns)
    yield from (_Need(f"rollout '{recipe.rollout.kind}'", column, True) for column in recipe.rollout.columns)


def _dataset(session: Session, spec: DatasetSource) -> DatasetFacts:
    facts = artifacts.ready_facts(session, spec.artifact, ArtifactKind.DATASET, "data.artifact")
    assert isinstance(facts, DatasetFacts)
    if spec.verifier not in verifiers.names():
        known = ", ".join(verifiers.names())
        raise Invalid(
            f"data.verifier: there is no verifier {spec.verifier!r}; there are {known}.",
            field="data.verifier",
            remedy="Choose one of them.",
        )
    return facts


def _check_verifier(recipe: Recipe, spec: DatasetSource) -> None:
    own, default = recipe.verifier, DatasetSource.model_fields["verifier"].default
    if own is not None and spec.verifier != default and verifiers.load(spec.verifier) != own:
        raise Invalid(
            f"data.verifier: the recipe judges by its own verifier ('{own.kind}'), and this one would not be asked.",
            field="data.verifier",
            remedy='Leave it out, or override: {"verifier": null}.',
        )


def _check_columns(recipe: Recipe, spec: DatasetSource, facts: DatasetFacts) -> None:
    has = ", ".join(sorted(facts.columns)) or "none"
    known = {*PARTS, *(need.column for need in _needs(recipe, spec.verifier))}
    for part, column in spec.columns.items():
        # A part of another name may be one that something reads where it is there; one that is misspelt is not.
        if part not in known and (near := get_close_matches(part, known, n=1, cutoff=0.8)):
            raise Invalid(
                f"data.columns.{part}: nothing reads a part of this name.",
                field=f"data.columns.{part}",
                remedy=f"Did you mean {near[0]}?",
            )
        if column not in facts.columns:
            raise Invalid(
                f"data.columns.{part}: the dataset has no column '{column}'; it has {has}.",
                field=f"data.columns.{part}",
                remedy="Name one that it has.",
            )
    asked = sum(_filled(facts, spec.column(part)) for part in PROMPTS)
    if asked == 0:
        raise Invalid(
            f"data.columns: the dataset has neither a column 'prompt' nor 'messages'; it has {has}.",
            field="data.columns",
            remedy='Map one: {"columns": {"prompt": "YOUR COLUMN"}}.',
        )
    if asked < facts.rows:
        raise Invalid(
            f"data.artifact: only {asked} of {facts.rows} rows have a prompt.",
            field="data.artifact",
            remedy="Push the dataset without the others.",
        )
    for need in _needs(recipe, spec.verifier):
        filled = _filled(facts, spec.column(need.column))
        if filled == 0:
            raise Invalid(
                f"data.columns: {need.who} needs the column '{need.column}', which the dataset lacks; it has {has}.",
                field="data.columns",
                remedy=f'Map one: {{"columns": {{"{need.column}": "YOUR COLUMN"}}}}, or choose another recipe.',
            )
        if need.everywhere and filled < facts.rows:
            raise Invalid(
                f"data.artifact: {need.who} needs the column '{need.column}' in every row, and only {filled} of "
                f"{facts.rows} have it.",
                field="data.artifact",
                remedy="Push the dataset without the others, or choose another recipe.",
            )


def _filled(facts: DatasetFacts, column: str) -> int:
    return facts.columns[column].filled if column in facts.columns else 0


def _check_rows(spec: DatasetSource, facts: DatasetFacts, training: Training) -> None:
    if spec.held_out == 0:
        raise Invalid(
            "data.held_out: without held-out rows nothing can be evaluated.",
            field="data.held_out",
            remedy="Hold out a share of the rows, e.g. 0.1.",
        )
    wanted = training.batch + training.evaluate_items
    if facts.rows < wanted:
        raise Invalid(
            f"data.artifact: the dataset has {facts.rows} rows, and a step of {training.batch} tasks with "
            f"{training.evaluate_items} held-out ones needs {wanted} at least.",
            field="data.artifact",
            remedy="Push more rows, or lower training.batch or training.evaluate_items.",
        )
