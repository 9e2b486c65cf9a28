"""Recipes from elsewhere: the operator's folder, read anew when a file changes, and installed packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from preceptor_trainer import recipes
from preceptor_trainer.part import forget
from preceptor_trainer.recipe import Recipe, Weight
from preceptor_trainer.recipes._folder import Folder

GAP = '''"""Skill-gap distillation, made up for a test.

Helps nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Gap(Weight, kind="test_own_gap"):
    """Tokens count by how far the reference moves the teacher."""

    scale: float = Field(default=SCALE, gt=0)
    """Nats that count fully."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return ((opinion.logprob_T - view.student.logprob_T).abs() / self.scale).clamp(max=1.0)


RECIPE = Recipe(
    paper="none",
    rollout=Student(samples=2),
    contexts={"reference": Reference(teacher="self")},
    weights=(Gap(),),
    target=Single(context="reference"),
    objective=(JSD(),),
)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    recipes.look_in(tmp_path)
    yield tmp_path
    recipes.look_in(None)


def write(folder: Path, scale: str = "1.0", name: str = "gap") -> None:
    (folder / f"{name}.py").write_text(GAP.replace("SCALE", scale))


def test_a_file_is_a_recipe(folder: Path) -> None:
    write(folder)
    assert "gap" in recipes.names() and "opsd" in recipes.names()
    recipe = recipes.load("gap")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.override({"weights.0.scale": 0.25}).weights[0].model_dump()["scale"] == 0.25
    assert recipes.summary("gap") == "Skill-gap distillation, made up for a test."
    assert recipes.origin("gap") == str(folder / "gap.py")
    assert recipes.load("gap") is recipe, "a file that has not changed is not read again"


def test_a_file_that_changes_is_read_anew(folder: Path) -> None:
    write(folder, "1.0")
    assert recipes.load("gap").weights[0].model_dump()["scale"] == 1.0
    write(folder, "0.5")
    assert recipes.load("gap").weights[0].model_dump()["scale"] == 0.5
    (folder / "gap.py").rename(folder / "wider.py")
    assert recipes.load("wider").paper == "none", "its parts go with it"
    with pytest.raises(recipes.UnknownRecipe, match="no recipe is called 'gap'"):
        recipes.load("gap")


def test_a_file_that_another_thread_finds_gone_is_said(folder: Path) -> None:
    write(folder)
    own = Folder(folder)
    try:
        own.module("gap")
        (folder / "gap.py").rename(folder / "wider.py")
        own.module("wider")  # as another request does meanwhile
        with pytest.raises(recipes.BrokenRecipe, match="cannot be read"):
            own.content("gap")
    finally:
        own.forget()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("RECIPE = (", "line 1: SyntaxError: '\\(' was never closed"),
        ("\nimport nothing_like_it", "line 2: ModuleNotFoundError"),
        ("RECIPE = 3", "RECIPE is int, not a Recipe"),
        ("", "RECIPE is NoneType, not a Recipe"),
        (GAP.replace("SCALE", "1.0").replace('context="reference"', 'context="hint"'), "'hint' is not a context"),
        (GAP.replace("SCALE", "1.0").replace("test_own_gap", "frontier"), "kind 'frontier' is taken by Frontier"),
    ],
)
def test_a_broken_file_says_where(folder: Path, content: str, says: str) -> None:
    (folder / "gap.py").write_text(content)
    with pytest.raises(recipes.BrokenRecipe, match=says) as error:
        recipes.load("gap")
    assert str(folder / "gap.py") in str(error.value)
    assert not [name for name in sys.modules if name.endswith(".gap")] or "int" in says or "NoneType" in says
    assert "test_own_gap" not in Weight.kinds
    write(folder)
    assert recipes.load("gap").paper == "none", "it is good again"


def test_a_name_is_given_once(tmp_path: Path) -> None:
    write(tmp_path, name="opsd")
    with pytest.raises(recipes.BrokenRecipe, match="there is a recipe 'opsd' already"):
        recipes.look_in(tmp_path)
    assert recipes.load("opsd").paper == "arXiv:2601.18734"
    with pytest.raises(recipes.BrokenRecipe, match="is no folder"):
        recipes.look_in(tmp_path / "opsd.py")


def test_helpers_are_no_recipes(folder: Path) -> None:
    write(folder, name="_shared")
    (folder / "notes.txt").write_text("x")
    (folder / "two-words.py").write_text("x")
    assert set(recipes.names()) & {"_shared", "notes", "two-words"} == set()


def test_a_package_brings_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "somebody").mkdir()
    write(tmp_path / "somebody", name="their_gap")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint(name="their_gap", value="somebody.their_gap", group="preceptor.recipes"),
        EntryPoint(name="opsd", value="somebody.their_gap", group="preceptor.recipes"),
    ]
    monkeypatch.setattr(recipes, "entry_points", lambda group: [each for each in points if each.group == group])
    monkeypatch.setattr(recipes, "_packaged", recipes._packaged.__wrapped__)  # looks again whenever it is asked
    assert recipes.load("their_gap").paper == "none"
    assert recipes.origin("their_gap") == "somebody.their_gap"
    assert recipes.origin("opsd") == "preceptor", "a shipped recipe keeps its name"
    forget("somebody.their_gap")
    points[:] = [EntryPoint(name="lost", value="somebody.lost", group="preceptor.recipes")]
    with pytest.raises(recipes.BrokenRecipe, match=r"somebody\.lost: ModuleNotFoundError"):
        recipes.load("lost")
