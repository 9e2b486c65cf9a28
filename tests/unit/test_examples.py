"""Every example is a run that could be started: it parses, its recipe and task exist, its roles are filled."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor.cli.pairfile import load_pair
from preceptor.cli.runfile import FileSource, load_run_file
from preceptor.client import Client
from preceptor.wire.codistillations import PEER
from preceptor.wire.data import DatasetSource
from preceptor.wire.runs import Training
from preceptor_trainer import recipes
from preceptor_trainer.data import open_data

EXAMPLES = Path(__file__).parents[2] / "examples"
PAIRS = [path for path in sorted(EXAMPLES.rglob("*.toml")) if {"a", "b"} <= tomllib.loads(path.read_text()).keys()]
FILES = [path for path in sorted(EXAMPLES.rglob("*.toml")) if path not in PAIRS]


def test_there_are_examples() -> None:
    assert {recipes_of(path) for path in FILES} == {"opsd", "opd", "sft"}


def recipes_of(path: Path) -> str:
    return load_run_file(path, {}).recipe


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    run = load_run_file(path, {})
    recipe = recipes.load(run.recipe).override(run.overrides)
    assert set(run.teachers) == recipe.roles
    training = Training.model_validate({**recipe.training, **run.training})
    if isinstance(run.data, FileSource):
        file = (path.parent / run.data.file).resolve()
        source = DatasetSource(
            artifact="sha256:" + "0" * 64,
            columns=run.data.columns,
            verifier=run.data.verifier,
            held_out=run.data.held_out,
        )
        data = open_data(source, file.parent)
    else:
        data = open_data(run.data)
    wanted = {column for context in recipe.contexts.values() for column in context.columns}
    assert wanted | set((recipe.verifier or data.verifier).columns) <= data.columns
    trained = {task.id for step in range(3) for task in data.train(step, training.batch, training.seed)}
    assert not trained & {task.id for task in data.held_out(training.evaluate_items)}


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_every_example_of_a_pair_loads(path: Path) -> None:
    pushed = list[Path]()

    def push(folder: Path, *_: object) -> str:
        pushed.append(folder.resolve(strict=True))
        return "sha256:" + "0" * 64

    wish = load_pair(path, cast(Client, SimpleNamespace(artifacts=SimpleNamespace(push=push))))
    for side in (wish.a, wish.b):
        recipe = recipes.load(side.run.recipe).override(side.run.overrides)
        assert set(side.run.teachers) == recipe.roles - {PEER}
        data = open_data(side.run.data)
        domains = {task.columns["domain"] for task in data.train(0, 64, 1)}
        assert set(side.teaches) <= domains
    assert len(pushed) == 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_every_program_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
