"""A pair written down: a TOML file that says what `CodistillationCreate` says, each side as a run's file or a table."""

from __future__ import annotations

import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from preceptor.cli.files import read_text
from preceptor.cli.runfile import RunFile, load_run_file, parse_run, to_create
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.validation import invalid
from preceptor.wire.codistillations import CodistillationCreate, SideCreate
from preceptor.wire.common import Name, Wire
from preceptor.wire.pairs import PairPolicy


class SideFile(Wire):
    """One side in a pair's file."""

    run: str | dict[str, Any]
    """Its run: the path of a run's file, or what such a file says, as a table."""
    teaches: tuple[str, ...] = ()
    """The domains in which it is heard; see docs/codistillation.md."""


class PairFile(Wire):
    """What a pair's TOML file holds."""

    name: Name | None = None
    """What to call the pair."""
    a: SideFile
    """One side."""
    b: SideFile
    """The other."""
    policy: PairPolicy = Field(default_factory=PairPolicy)
    """What both keep to."""


def load_pair(path: Path, client: Client) -> CodistillationCreate:
    """The wish for a pair, with students' folders and data files pushed as artifacts. Paths are relative to the file
    that names them. Raises Invalid, naming the field, before anything is pushed."""
    pair = _read(path)
    given = {"a": pair.a, "b": pair.b}
    runs: dict[str, tuple[RunFile, Path]] = {}
    for side, each in given.items():
        with _of_side(side):
            runs[side] = _run(path, each)
    sides: dict[str, SideCreate] = {}
    for side, each in given.items():
        run, base = runs[side]
        with _of_side(side):
            sides[side] = SideCreate(run=to_create(run, client, base=base), teaches=each.teaches)
    return CodistillationCreate(name=pair.name, policy=pair.policy, **sides)


@contextmanager
def _of_side(side: str) -> Generator[None]:
    """What is wrong with a run is wrong with this side's: the sentence and the field say so."""
    try:
        yield
    except Invalid as error:
        field = f"{side}.run.{error.field}" if error.field else f"{side}.run"
        raise Invalid(f"{side}.run: {error.problem.detail}", field=field, remedy=error.problem.remedy) from error


def _read(path: Path) -> PairFile:
    try:
        return PairFile.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{path} is not TOML: {error}.", field="file", remedy="Correct the file.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"][1:] and first["loc"][1] == "run":  # neither of the two that it may be
            first["loc"] = first["loc"][:2]
        wrong = invalid([first], whole="the pair")
        remedy = "A pair has two sides, `a` and `b`, each with a run: a table [a.run], or a.run = 'FILE.toml'."
        raise Invalid(f"{path}: {wrong.problem.detail}", field=wrong.field, remedy=remedy) from None


def _run(path: Path, side: SideFile) -> tuple[RunFile, Path]:
    """A side's run, and the folder that its paths are relative to."""
    if isinstance(side.run, str):
        file = path.parent / Path(side.run).expanduser()
        return load_run_file(file, {}), file.parent
    return parse_run(side.run, where=str(path)), path.parent
