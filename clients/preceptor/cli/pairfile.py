"""A pair written down: a TOML file that says what `CodistillationCreate` says, each side as a run's file or a table."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, cast

from preceptor.cli.runfile import RunFile, load_run_file, parse_run, to_create
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.codistillations import CodistillationCreate, SideCreate
from preceptor.wire.pairs import PairPolicy

SIDES = ("a", "b")


def load_pair(path: Path, client: Client) -> CodistillationCreate:
    """The wish for a pair, with students' folders and data files pushed as artifacts. A side's `run` is a table, or the
    path of a run's file. Paths are relative to the file that names them. Raises Invalid, naming the field."""
    content = _content(path)
    for name in sorted(content.keys() - {"name", "policy", *SIDES}):
        raise Invalid(f"{path}: {name}: there is no such field.", field=name, remedy="Correct the file.")
    sides = {side: _side(path, side, content.get(side), client) for side in SIDES}
    policy = PairPolicy.model_validate(content.get("policy", {}))
    return CodistillationCreate(name=content.get("name"), policy=policy, **sides)


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.", field="file", remedy="Correct the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not TOML: {error}.", field="file", remedy="Correct the file.") from error


def _side(path: Path, side: str, content: Any, client: Client) -> SideCreate:
    if not isinstance(content, dict) or "run" not in content:
        raise Invalid(
            f"{path}: {side}.run is missing: a pair has two sides, `a` and `b`, each with a run.",
            field=f"{side}.run",
            remedy=f"Write a table [{side}.run], or {side}.run = 'FILE.toml'.",
        )
    table = cast("dict[str, Any]", content)
    for name in sorted(table.keys() - {"run", "teaches"}):
        raise Invalid(f"{path}: {side}.{name}: there is no such field.", field=f"{side}.{name}", remedy="Correct it.")
    run, base = _run(path, side, table["run"])
    return SideCreate(run=to_create(run, client, base=base), teaches=tuple(table.get("teaches", ())))


def _run(path: Path, side: str, run: Any) -> tuple[RunFile, Path]:
    """A side's run, and the folder that its paths are relative to."""
    if isinstance(run, str):
        file = path.parent / Path(run).expanduser()
        return load_run_file(file, {}), file.parent
    return parse_run(run, where=f"{path}, {side}.run"), path.parent
