"""`preceptor keys`: who may do what."""

from __future__ import annotations

from typing import Annotated

import typer

from preceptor.cli import output
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.wire.common import Scope

app = typer.Typer(help="Make, list and revoke keys to the control plane.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom or what it is for.")],
    scope: Annotated[Scope, typer.Option(help="What it may do; each includes the ones before it.")] = Scope.READ,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Make a key. Its secret is printed this once and kept only as a hash."""
    with connect(url, key_file) as client:
        created = client.keys.create(name, scope)
    if as_json:
        return output.show_json(created)
    output.complaints.print(f"Key {created.key.id}, scope {scope.value}, for {name}. It is not shown again:")
    output.console.print(created.secret, soft_wrap=True, highlight=False)


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All keys, without their secrets."""
    with connect(url, key_file) as client:
        keys = client.keys.list()
    if as_json:
        return output.show_json(keys)
    rows = [(k.id, k.name, k.scope.value, k.created_at, k.last_used_at, k.revoked_at) for k in keys]
    output.show_table(("id", "name", "scope", "made", "last used", "revoked"), rows, empty="No keys.")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `preceptor keys list`.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Stop a key from working."""
    with connect(url, key_file) as client:
        key = client.keys.revoke(key_id)
    if as_json:
        return output.show_json(key)
    output.console.print(f"Key {key.id} ({key.name}) no longer works.")
