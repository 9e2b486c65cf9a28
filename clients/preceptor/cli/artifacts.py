"""`preceptor artifacts`: models, datasets and checkpoints, held under their content hash."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from preceptor.cli import output
from preceptor.cli.models import artifact_name, model_folder
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.resources.artifacts import Progress as Report
from preceptor.wire.artifacts import Artifact, ArtifactKind

app = typer.Typer(help="Push, list and pull models, datasets and checkpoints.", no_args_is_help=True)


@app.command()
def push(
    path: Annotated[str, typer.Argument(help="A folder or a file; a model also by `hub:org/name@revision` or name.")],
    kind: Annotated[ArtifactKind, typer.Option(help="What it is.")] = ArtifactKind.MODEL,
    name: Annotated[str | None, typer.Option(help="What to call it; else the folder's name.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Upload an artifact and print its id. What is there already is not sent again."""
    source = model_folder(path) if kind is ArtifactKind.MODEL else Path(path).expanduser()
    with connect(url, key_file) as client, _bars(as_json) as bars:
        artifact = client.artifacts.push(source, kind, name or artifact_name(source.stem), _reports(bars))
    if as_json:
        return output.show_json({"id": artifact})
    output.console.print(artifact, soft_wrap=True)


@app.command("list")
def list_(
    kind: Annotated[ArtifactKind | None, typer.Option(help="Only of this kind.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """All artifacts, newest first."""
    with connect(url, key_file) as client:
        artifacts = list[Artifact](client.artifacts.list(kind))
    if as_json:
        return output.show_json(artifacts)
    rows = [
        (a.id, a.manifest.kind.value, a.manifest.name, a.state.value, f"{a.size / 1e6:.1f} MB", a.created_at)
        for a in artifacts
    ]
    empty = "No artifacts yet: `preceptor artifacts push FOLDER`."
    output.show_table(("id", "kind", "name", "state", "size", "made"), rows, empty=empty)


@app.command()
def pull(
    artifact: Annotated[str, typer.Argument(help="The artifact's id, `sha256:...`.")],
    folder: Annotated[Path, typer.Argument(help="Where to put its files.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Download an artifact; every hash is checked. Cut off, the same command goes on where it stopped."""
    with connect(url, key_file) as client, _bars(as_json) as bars:
        where = client.artifacts.pull(artifact, folder, _reports(bars))
    if as_json:
        return output.show_json({"id": artifact, "folder": str(where)})
    output.console.print(f"{artifact} is in {where}", soft_wrap=True)


def _bars(as_json: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return output.bars(as_json, *columns)


def _reports(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(path: str, done: int, size: int) -> None:
        if path not in tasks:
            tasks[path] = bars.add_task(path, total=size)
        bars.update(tasks[path], completed=done, total=size)

    return report
