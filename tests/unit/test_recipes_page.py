"""docs/recipes.md says what the recipes say. `scripts/docs` writes it again."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preceptor.wire.recipes import PartShown, RecipeDetail, ReductionShown
from preceptor_services.api.recipes import service
from preceptor_trainer import recipes

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recipes.md"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
FAMILIES = {
    "Baselines": "No teacher. What every other method is held against.",
    "Another model as the teacher": "A stronger model says how likely each token of the student's was.",
    "The student as its own teacher": "The student's own weights, shown what the student is not shown.",
    "Reward, and the student as its own teacher": "A verifier's reward decides too: which way, how much, or on what.",
    "Several teachers": "More than one model is asked about a rollout, or a different one for each kind of task.",
    "Teachers that write": "A text teacher writes what the scoring teacher is shown: a critique, a rubric, a debate.",
}
HEAD = """# Recipes

The shipped methods by family. This page is written from their files (`scripts/docs`); every file is in
[`recipes/`](../trainer/preceptor_trainer/recipes). `preceptor recipes show NAME` prints any of them with every setting
explained, and any setting can be set in a run: `preceptor runs start opsd --set objective.0.beta=0.3`. To write one,
see [your own method](your-own-method.md).

*Evidence* says what was read of a method's sources and what was not: believe it before the name. *Becomes* are
reductions that a test checks through the real loss. *Measured* is from
[what was measured](../benchmarks/RESULTS.md) here and from nowhere else, with the control arm (wrong content in the
same words) beside it; where it says nothing, nothing is known.
"""
LONGEST = 60
"""Characters of a setting's value; a longer one is a template, and `recipes show` prints it."""
HIDDEN = ("teacher", "on_failure", "template", "wrong", "fresh", "record_every")
"""Settings of contexts that say nothing about a method."""
IDENTITIES = {"coefficient": 1.0, "temperature": 1.0, "max_tokens": 128, "reduction": "token", "clip_by": "event"}
"""What a setting is where it says nothing, either."""


def shipped() -> list[RecipeDetail]:
    return [service.one(name) for name in recipes.names() if recipes.origin(name) == "preceptor"]


def page() -> str:
    by_family: defaultdict[str, list[RecipeDetail]] = defaultdict(list)
    for recipe in shipped():
        by_family[recipe.family].append(recipe)
    families = [name for name in FAMILIES if name in by_family]
    measured = measurements(RESULTS.read_text(encoding="utf-8"))
    index = "\n\n".join(f"**{name}.** {FAMILIES[name]}\n\n{table(by_family[name])}" for name in families)
    parts = [part for name in families for part in (f"## {name}", *(entry(each, measured) for each in by_family[name]))]
    return "\n\n".join([HEAD + "\n" + index, *parts]) + "\n"


def table(of: list[RecipeDetail]) -> str:
    rows = [f"| [`{each.name}`](#{each.name}) | {each.summary} | {roles(each)} |" for each in of]
    return "\n".join(["| recipe | what it does | teachers |", "|---|---|---|", *rows])


def roles(recipe: RecipeDetail) -> str:
    return ", ".join(f"`{role}`" for role in recipe.roles) or "none"


def entry(recipe: RecipeDetail, measured: dict[str, list[str]]) -> str:
    """All about one recipe."""
    paragraphs = [
        each for each in recipe.description.split("\n\n") if not each.startswith(("Evidence:", "Helps", "Deviation"))
    ]
    needs = [f"{name}: `{need.value}`" for name, need in recipe.needs.items()]
    facts = [
        f"**Teachers** {roles(recipe)}" + (f"; least support by context: {', '.join(needs)}" if needs else ""),
        f"**Data** {', '.join(f'`{each}`' for each in recipe.columns)}" if recipe.columns else "",
        f"**Evidence** {recipe.evidence}" if recipe.evidence else "",
        f"**When** {recipe.helps}" if recipe.helps else "",
        f"**Measured** {' '.join(measured[recipe.name])}" if recipe.name in measured else "**Measured** not yet.",
        *(f"**Becomes** {becomes(each)}" for each in recipe.reduces),
    ]
    lines = "\n".join(f"- {fact}" for fact in facts if fact)
    return "\n\n".join([f"### {recipe.name}", f"Source: {linked(recipe.paper)}", *paragraphs, composed(recipe), lines])


def linked(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def composed(recipe: RecipeDetail) -> str:
    """The parts that are not what a recipe has anyway, and the settings that are not what a part has anyway."""
    plain = {("teacher", "frozen"), ("curriculum", "uniform"), ("constraint", "all")}
    routed = {part.path.removesuffix(".router") for part in recipe.parts if part.path.endswith(".router")}
    rows = [
        f"| {f'`{part.path}`' if part.path else 'recipe'} | {f'`{part.kind}`' if part.path else ''} | {told} |"
        for part in recipe.parts
        for told in [", ".join(settings(part, routed=part.path in routed))]
        if (part.path, part.kind) not in plain and (told or part.path)
        if part.path != "sparse" or any(each.value != each.default for each in part.settings)
    ]
    return "\n".join(["| part | kind | settings |", "|---|---|---|", *rows])


def settings(part: PartShown, *, routed: bool) -> Iterator[str]:
    for each in part.settings:
        says_nothing = each.value in (None, [], {}) or each.value == IDENTITIES.get(each.name, object())
        role = part.role == "contexts" and each.name == "teacher" and not routed
        if role or not (says_nothing or each.name in HIDDEN):
            yield f"{each.name} {shown(each.value)}"


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONGEST else "(long)"


def becomes(claim: ReductionShown) -> str:
    exact = {"equal": "", "scale": ", up to scale", "gradient": ", in gradient", "expectation": ", in expectation"}
    given = f", if that is changed by `{json.dumps(claim.given)}`" if claim.given else ""
    return f"[`{claim.to}`](#{claim.to}){exact[claim.up_to]} with `{json.dumps(claim.when)}`{given}"


def measurements(results: str) -> dict[str, list[str]]:
    """By recipe, a sentence for every task that RESULTS.md has a table of recipes for."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for task, text in re.findall(r"\n### (\S+)\n(.*?)(?=\n##|\Z)", results, re.DOTALL):
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", text, re.M)]
        if not rows or rows[0][:3] != ["recipe", "accuracy", "wrong content"]:
            continue
        base = next((row[1] for row in rows if row[0].startswith("the base")), "not measured")
        for row in rows[2:]:
            if not row[0].startswith("the base"):
                found[row[0].strip("*")].append(f"{task}: {row[1]} (wrong content {row[2]}; untrained {base}).")
    return found


def test_the_page_is_what_the_recipes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `scripts/docs` and commit docs/recipes.md"


@pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)
def test_a_recipe_says_what_it_is_worth(recipe: RecipeDetail) -> None:
    """Where it comes from, what was read of that, and what it is, before anybody runs it."""
    assert recipe.family in FAMILIES
    assert recipe.paper and recipe.summary
    assert recipe.evidence or recipe.paper == "baseline", "its docstring needs a paragraph `Evidence: ...`"
    assert all(setting.says for part in recipe.parts if part.path for setting in part.settings)


def test_measurements_come_from_the_results() -> None:
    results = (
        "# What\n\n## recipes\n\nwords\n\n### spell_backward\n\n| recipe | accuracy | wrong content | no content |\n"
        "|---|---|---|---|\n| opsd | 0.855 ± 0.030 | 0.310 ± 0.040 | - |\n| **sft** | 0.500 ± 0.010 | - | - |\n"
        "| the base, untrained | 0.315 ± 0.064 | | |\n\n## other\n\n### opsd\n\n| a | b |\n"
    )
    assert measurements(results) == {
        "opsd": ["spell_backward: 0.855 ± 0.030 (wrong content 0.310 ± 0.040; untrained 0.315 ± 0.064)."],
        "sft": ["spell_backward: 0.500 ± 0.010 (wrong content -; untrained 0.315 ± 0.064)."],
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
