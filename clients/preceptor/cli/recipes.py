"""`preceptor recipes`: the methods that the control plane knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape

from preceptor.cli import output
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.wire.recipes import PartShown, RecipeDetail

app = typer.Typer(help="Look at the training methods.", no_args_is_help=True)

LONGEST = 60
"""Characters of a value that a table shows; `--json` has all of it."""


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All recipes: the shipped ones, those of installed packages, and the operator's own."""
    with connect(url, key_file) as client:
        recipes = client.recipes.list()
    if as_json:
        return output.show_json(recipes)
    rows = [
        (r.name, r.trouble or r.summary, r.family, ", ".join(r.roles) or "none", r.support.value, r.paper or "-")
        for r in recipes
    ]
    columns = ("name", "what it does", "family", "teachers", "need", "paper")
    output.show_table(columns, rows, empty="The control plane knows no recipes.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The recipe's name.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """One recipe: what it says of itself, what it needs, and every part with every setting.

    `runs start` changes a setting by its part and name: --set objective.0.beta=0.3
    """
    with connect(url, key_file) as client:
        recipe = client.recipes.get(name)
    if as_json:
        return output.show_json(recipe)
    where = "" if recipe.origin == "preceptor" else f"  [dim]{escape(recipe.origin)}[/]"
    output.console.print(f"[bold]{recipe.name}[/]  {escape(recipe.paper)}{where}\n\n{escape(recipe.description)}\n")
    output.show_facts(
        {
            "family": recipe.family,
            "teachers": ", ".join(recipe.roles) or "none",
            "needs": ", ".join(f"{name}: {need.value}" for name, need in recipe.needs.items()) or None,
            "data": ", ".join(recipe.columns) or None,
            "becomes": "\n".join(_claims(recipe)) or None,
        }
    )
    output.console.print()
    rows = [row for part in recipe.parts for row in _rows(part)]
    output.show_table(("part", "setting", "value", "default", "what it says"), rows, empty="It has no parts.")


def _claims(recipe: RecipeDetail) -> Iterator[str]:
    for each in recipe.reduces:
        given = f", itself with {json.dumps(each.given)}" if each.given else ""
        exact = "" if each.up_to == "equal" else f" (in {each.up_to})"
        yield f"{each.to}{exact} with {json.dumps(each.when)}{given}"


def _rows(part: PartShown) -> Iterator[tuple[str, ...]]:
    """A part, then each of its settings."""
    if part.path:
        yield f"{part.path}: {part.kind}", "", "", "", part.says
    for each in part.settings:
        default = "required" if each.required else "" if each.value == each.default else _short(each.default)
        yield "" if part.path else each.name, each.name if part.path else "", _short(each.value), default, each.says


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"
