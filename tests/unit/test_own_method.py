"""The guide's file is a recipe, and its test of the equation passes. Its commands are typed by a platform test."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor_trainer import recipes
from preceptor_trainer.recipes._folder import BrokenRecipe
from tests.unit.test_house import ROOT
from tests.unit.trainer.setting import batch_of, learn
from tests.unit.trainer.toy import toy_rows

GUIDE = ROOT / "docs" / "your-own-method.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def write_guides_recipe(folder: Path) -> str:
    """Put the guide's file where it says; its name."""
    path, content = re.fullmatch(r"# recipes/(\w+)\.py\n(.*)", BLOCKS[0], re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    folder.mkdir(exist_ok=True)
    (folder / f"{path}.py").write_text(content)
    return path


@pytest.fixture
def surprise(tmp_path: Path) -> Iterator[str]:
    name = write_guides_recipe(tmp_path / "recipes")
    recipes.look_in(tmp_path / "recipes")
    yield name
    recipes.look_in(None)


def test_the_guides_file_is_under_sixty_lines_and_reduces_as_it_says(surprise: str) -> None:
    recipe = recipes.load(surprise)
    assert BLOCKS[0].count("\n") < 60 + recipes.described(surprise).count("\n")
    (claim,) = recipe.reduces
    one, other = recipe.override(claim.when), recipes.load(claim.to)
    rows = toy_rows((4, 2, 6))
    assert learn(one, batch_of(one, rows)).loss == pytest.approx(learn(other, batch_of(other, rows)).loss)
    assert learn(recipe, batch_of(recipe, rows)).loss != pytest.approx(learn(other, batch_of(other, rows)).loss)


def test_the_guides_test_passes_and_can_fail(tmp_path: Path) -> None:
    write_guides_recipe(tmp_path / "recipes")
    for block, passes in ((BLOCKS[1], True), (BLOCKS[1].replace("[0.0, 0.5, 1.0]", "[0.0, 0.5, 2.0]"), False)):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) == passes, done.stderr


def test_a_mistake_in_it_is_found(tmp_path: Path) -> None:
    name = write_guides_recipe(tmp_path / "recipes")
    file = tmp_path / "recipes" / f"{name}.py"
    file.write_text(file.read_text().replace('Single(context="reference")', 'Single(context="referense")'))
    recipes.look_in(tmp_path / "recipes")
    with pytest.raises(BrokenRecipe, match=r"surprise\.py line \d+: ValidationError: .*'referense' is not a context"):
        recipes.load(name)
    recipes.look_in(None)
