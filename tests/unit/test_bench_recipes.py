"""The benchmark of recipes: its cells run through the real loop, are kept, and are told as they came out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from preceptor_trainer import recipes, tasks

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The benchmark's modules, which stand beside their script and are in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield SimpleNamespace(**{name: import_module(f"of_recipes.{name}") for name in ("cells", "plans", "report")})


def a_cell(bench: SimpleNamespace, **changes: Any) -> Any:
    budget = bench.plans.Budget(tokens=60, rollouts=8, every=2, items=6)
    settings = {"task": "spell_backward", "options": {}, "recipe": "opsd", "arm": "right", "seed": 0}
    settings |= {"learning_rate": 5e-4, "split": "held_out", "budget": budget}
    return bench.plans.Cell(**(settings | changes))


def test_a_cell_is_trained_until_its_budget_is_spent_and_then_kept(bench: SimpleNamespace, tmp_path: Path) -> None:
    cell = a_cell(bench)
    assert bench.cells.kept(tmp_path, cell, TINY) is None
    out = bench.cells.run_cell(tmp_path, cell, TINY, {})
    assert out["error"] is None
    tokens = [each["tokens"] for each in out["curve"]]
    assert tokens[0] == 0 and tokens[-2] < 60 <= tokens[-1]
    assert [each["step"] for each in out["curve"]] == list(range(0, 2 * len(tokens), 2))
    assert bench.cells.kept(tmp_path, cell, TINY) == json.loads(json.dumps(out))
    for other in (
        replace(cell, seed=1),
        replace(cell, budget=replace(cell.budget, items=7)),
        replace(cell, arm="none"),
    ):
        assert bench.cells.kept(tmp_path, other, TINY) is None


def test_a_moving_teacher_moves_and_a_better_one_is_asked(bench: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("sdft", "opd"):
        out = bench.cells.run_cell(tmp_path, a_cell(bench, recipe=name), TINY, {"": TINY})
        assert out["error"] is None and len(out["curve"]) > 1


def test_a_cell_that_dies_says_of_what_and_is_tried_again(bench: SimpleNamespace, tmp_path: Path) -> None:
    cell = a_cell(bench, recipe="opd")
    out = bench.cells.run_cell(tmp_path, cell, TINY, {})
    assert "opd: the role teacher wants a better model" in out["error"]
    assert bench.cells.kept(tmp_path, cell, TINY) is None


def test_specialists_are_heard_on_their_domains(bench: SimpleNamespace, tmp_path: Path) -> None:
    cell = a_cell(bench, recipe="mopd", task="letters_and_codes")
    assert bench.plans.experts(bench.plans.with_domains("mopd", "letters_and_codes")) == {
        "letters": "letters",
        "codes": "codes",
    }
    out = bench.cells.run_cell(tmp_path, cell, TINY, {"codes": TINY, "letters": TINY})
    assert out["error"] is None and out["curve"][-1]["tokens"] >= 60
    source = tasks.load("letters_and_codes")
    drawn = bench.cells.Questions(source, "validation", "letters").train(0, 8, seed=0)
    assert [task.columns["domain"] for task in drawn] == ["letters"] * 8


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_has_a_plan_for_some_task(bench: SimpleNamespace, name: str) -> None:
    fitting = [task for task in tasks.names() if bench.plans.missing(name, task, {}) is None]
    assert fitting
    for arm in bench.plans.arms(name):
        resolved = bench.plans.recipe_of(a_cell(bench, recipe=name, task=fitting[0], arm=arm))
        changed = bench.plans.shown(recipes.load(name))
        for key in changed:
            if arm == "none":
                assert resolved.contexts[key].kind == "plain"
            else:
                assert resolved.contexts[key].wrong is (arm == "wrong")


def outcome(*correct: int, error: str | None = None) -> dict[str, Any]:
    curve = [{"tokens": 100 * at, "seconds": float(at), "correct": each, "n": 100} for at, each in enumerate(correct)]
    return {"curve": curve, "error": error}


def test_a_table_holds_what_came_out_and_what_did_not(bench: SimpleNamespace, tmp_path: Path) -> None:
    runs = [
        (a_cell(bench), outcome(30, 80)),
        (a_cell(bench, seed=1), outcome(30, 90)),
        (a_cell(bench, arm="wrong"), outcome(30, 0)),
        (a_cell(bench, recipe="sft"), outcome(30, 95)),
        (a_cell(bench, recipe="gkd"), outcome(30, error="ValueError: no")),
    ]
    found = bench.report.Found("spell_backward", {"opsd": 5e-4, "sft": 1e-3, "gkd": 5e-4}, {"mopd": "needs more"}, runs)
    text = bench.report.table(found)
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| **sft**", "| opsd", "| gkd", "| the base, untrained"]
    assert "0.850 ± " in rows[1] and "0.000 ± 0.000" in rows[1]
    assert "- `mopd`: needs more" in text and "- `gkd` failed: ValueError: no" in text
    results = tmp_path / "RESULTS.md"
    results.write_text("# What was measured\n\nOne section.\n\n## teacher\n\nfigures\n")
    for _ in range(2):
        bench.report.write(found, tmp_path / "out", results, "On a machine.")
    whole = results.read_text()
    assert whole.count("### spell_backward") == whole.count(bench.report.BEGIN) == 1
    assert whole.endswith("## teacher\n\nfigures\n") and whole.startswith("# What was measured\n\nOne section.\n")
    assert (tmp_path / "recipes-spell_backward.png").read_bytes().startswith(b"\x89PNG")


def test_an_interval_covers_seeds_and_questions(bench: SimpleNamespace) -> None:
    mean, one = bench.report.interval([0.5], 100)
    assert (mean, one) == (0.5, pytest.approx(0.098, abs=1e-3))
    assert bench.report.interval([0.5, 0.5, 0.5], 100)[1] == pytest.approx(one)
    assert bench.report.interval([0.4, 0.5, 0.6], 100)[1] == pytest.approx((one**2 + (4.303 * 0.1) ** 2 / 3) ** 0.5)


def test_the_best_rate_is_the_smallest_of_the_best(bench: SimpleNamespace) -> None:
    tried = [
        (a_cell(bench, learning_rate=rate), outcome(0, share)) for rate, share in ((2e-4, 5), (5e-4, 9), (1e-3, 9))
    ]
    assert bench.report.best_rate(tried) == 5e-4
    assert bench.report.best_rate([(tried[0][0], outcome(error="died"))]) == 2e-4
