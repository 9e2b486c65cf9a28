"""Recipes over HTTP: the shipped ones spelled out, and those of the operator's folder, good and broken."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.teachers import Support
from preceptor_services.errors import BadSetting
from preceptor_services.own_recipes import open_own_recipes
from preceptor_services.worker.here import know_parts
from preceptor_trainer import recipes
from tests.contract.conftest import House
from tests.unit.trainer.recipes.test_own import write


def test_recipes_are_listed_by_name(sqlite_house: House):
    found = sqlite_house.admin.recipes.list()
    assert [each.name for each in found] == list(recipes.names())
    known = {each.name: each for each in found}
    assert known["opsd"].family == "The student as its own teacher"
    assert known["grpo"].family == "Baselines" and known["grpo"].roles == ()
    assert all(each.trouble is None and each.origin == "preceptor" and each.paper for each in found)


def test_a_recipe_is_spelled_out(sqlite_house: House):
    shown = sqlite_house.admin.recipes.get("dopd")
    assert shown.needs == {"teacher": Support.TOPK, "informed": Support.TOPK}
    assert shown.columns == ("reference",)
    assert shown.evidence.startswith("a third party's notes; the paper was not read.")
    parts = {each.path: each for each in shown.parts}
    assert parts["objective.0.weights.0"].kind == "regime"
    assert [(each.name, each.value) for each in parts["teacher"].settings] == [("every", 1)]
    for path, part in parts.items():
        held: Any = shown.resolved
        for step in path.split(".") if path else []:
            held = held[int(step)] if step.isdigit() else held[step]
        for setting in part.settings:
            assert held[setting.name] == setting.value, f"{path}: overrides are merged into what is shown"
            assert setting.says or not path, f"{path}.{setting.name} says nothing"
    (claim,) = shown.reduces
    assert (claim.to, claim.up_to) == ("opd", "equal")
    with pytest.raises(NotFound, match="did you mean dopd"):
        sqlite_house.admin.recipes.get("dopdd")


@pytest.fixture
def own(tmp_path: Path, make_house: Callable[..., House]) -> House:
    """A control plane whose operator has a folder of recipes."""
    (folder := tmp_path / "own").mkdir()
    write(folder)
    return make_house(f"sqlite:///{tmp_path / 'preceptor.db'}", recipes=folder)


def test_an_own_recipe_is_held_to_the_same(own: House):
    house = own
    shown = house.admin.recipes.get("gap")
    assert shown.origin == str(house.tmp / "own" / "gap.py") and shown.helps == "Helps nobody."
    run = house.run(recipe="gap", overrides={"weights.0.scale": 0.5})
    assert run.resolved["weights"] == [{"kind": "test_own_gap", "scale": 0.5}]
    with pytest.raises(Invalid, match=r"overrides\.weights\.0\.scales: there is no such field. Did you mean scale\?"):
        house.run(recipe="gap", overrides={"weights.0.scales": 0.5})


def test_a_recipe_that_tells_the_answer_is_refused(own: House):
    folder = own.tmp / "own"
    sly = (
        'class Sly(Answer, kind="test_sly"):\n    """Shows the answer in silence."""\n\n    reveals = frozenset()\n\n\n'
    )
    text = (folder / "gap.py").read_text().replace("import Reference", "import Answer").replace("Reference(", "Sly(")
    (folder / "leaky.py").write_text(text.replace("test_own_gap", "test_leaky").replace("RECIPE = ", sly + "RECIPE = "))
    with pytest.raises(Invalid, match="holds the task's answer, which 'test_sly' does not reveal") as error:
        own.run(recipe="leaky")
    assert error.value.field == "overrides.contexts.reference"
    assert own.run(recipe="leaky", training={"steps": 4, "leak_check": "off"}).training.leak_check == "off"


def test_a_broken_recipe_is_told_apart(own: House):
    (own.tmp / "own" / "gap.py").write_text("RECIPE = (")
    listed = {each.name: each for each in own.admin.recipes.list()}["gap"]
    assert listed.trouble is not None and "gap.py line 1: SyntaxError" in listed.trouble
    with pytest.raises(Conflict, match=r"Recipe gap cannot be used: .* line 1: SyntaxError"):
        own.admin.recipes.get("gap")
    with pytest.raises(Invalid, match=r"recipe: .* SyntaxError") as error:
        own.run(recipe="gap")
    assert error.value.field == "recipe"
    write(own.tmp / "own")
    assert own.admin.recipes.get("gap").paper == "none"


def test_a_run_records_the_file_of_its_recipe_and_says_when_it_has_changed(own: House):
    file = own.tmp / "own" / "gap.py"
    run = own.run(recipe="gap")
    assert run.recipe_sha256 == sha256(file.read_bytes()).hexdigest()
    assert own.run(recipe="opsd").recipe_sha256 is None, "it is shipped"
    for step in (None, "# changed\n"):
        own.admin.runs.cancel(run.id)
        file.write_text(file.read_text() + (step or ""))
        resumed = own.admin.runs.resume(run.id)
        notes = [each.data["message"] for each in own.admin.runs.events(run.id, follow=False) if each.kind == "note"]
        if step is None:
            assert resumed == own.admin.runs.get(run.id) and resumed.recipe_sha256 == run.recipe_sha256 and not notes
    assert resumed.recipe_sha256 == sha256(file.read_bytes()).hexdigest() != run.recipe_sha256
    assert str(run.recipe_sha256)[:12] in notes[0] and "computed by other code" in notes[0]
    own.admin.runs.cancel(run.id)
    file.unlink()
    with pytest.raises(Conflict, match=rf"Run {run.id} cannot go on: no recipe is called 'gap'"):
        own.admin.runs.resume(run.id)


def test_a_worker_with_another_file_refuses_the_run(own: House):
    run = own.run(recipe="gap")
    know_parts(run)
    file = own.tmp / "own" / "gap.py"
    file.write_text(file.read_text() + "# other\n")
    with pytest.raises(
        Invalid, match=r"this worker's file of 'gap' has the SHA-256 \w{12}, and the run was accepted with"
    ):
        know_parts(run)


def test_a_folder_that_is_not_there_is_a_bad_setting(tmp_path: Path):
    with pytest.raises(BadSetting, match=r"PRECEPTOR_RECIPES: .*/none is no folder"):
        open_own_recipes(tmp_path / "none")
