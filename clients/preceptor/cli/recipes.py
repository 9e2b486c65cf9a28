"""`preceptor recipes`: the methods that the control plane knows."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.syntax import Syntax

from preceptor.cli import output
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect

app = typer.Typer(help="Look at the training methods.", no_args_is_help=True)


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All recipes."""
    with connect(url, key_file) as client:
        recipes = client.recipes.list()
    if as_json:
        return output.show_json(recipes)
    rows = [(r.name, r.summary, ", ".join(r.roles) or "none", r.paper) for r in recipes]
    output.show_table(("name", "what it does", "teachers", "paper"), rows, empty="The control plane knows no recipes.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The recipe's name.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """One recipe: what it says of itself and every part with every setting."""
    with connect(url, key_file) as client:
        recipe = client.recipes.get(name)
    if as_json:
        return output.show_json(recipe)
    output.console.print(f"[bold]{recipe.name}[/]  {recipe.paper}\n\n{escape(recipe.description.strip())}\n")
    roles = ", ".join(recipe.roles) or "none"
    output.console.print(f"teachers to name: {roles}; least support: {recipe.support.value}\n")
    output.console.print(Syntax(json.dumps(recipe.resolved, indent=2), "json", background_color="default"))
