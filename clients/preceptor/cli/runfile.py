"""A run written down: a TOML file that says what `RunCreate` says, with folders and files where that has artifacts."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from preceptor.cli.models import artifact_name, is_artifact, model_artifact
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.common import Name, Wire
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.runs import Alignment, RunCreate


class FileSource(Wire):
    """A user's own rows, as a file here or as an artifact."""

    kind: Literal["dataset"] = "dataset"
    """Says that these are the user's rows."""
    file: str
    """A JSONL or Parquet file, a folder of them, or `sha256:...`. A relative path is taken from the run's file."""
    columns: dict[str, str] = Field(default_factory=dict[str, str])
    """Which column plays which part."""
    verifier: str = "exact"
    """How a completion is judged."""
    held_out: float = 0.1
    """Share of the rows that is never trained on."""


class RunFile(Wire):
    """What a run's TOML file holds. Tables: `[teachers]`, `[fallbacks]`, `[data]`, `[training]`, `[overrides]`."""

    name: Name | None = None
    """What to call the run."""
    recipe: str
    """The recipe's name."""
    overrides: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Changes to the recipe."""
    student: str
    """The model to train: a folder (relative to this file), an artifact, `hub:org/name@revision`, or a known name."""
    teachers: dict[str, str] = Field(default_factory=dict[str, str])
    """Which registered teacher fills each role."""
    fallbacks: dict[str, str] = Field(default_factory=dict[str, str])
    """Which one is asked where a role's teacher gives no answer, and a context's `on_failure` is `fallback`."""
    vacant: tuple[str, ...] = ()
    """Roles of routers that nobody fills yet; see docs/experts.md."""
    data: Annotated[TaskSource | FileSource, Field(discriminator="kind")]
    """Where the tasks come from."""
    training: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Changes to the training settings."""
    sampler: str | None = None
    """Which registered teacher writes the rollouts, by weights that the run sends it; see docs/sampling.md."""
    skills: str | None = None
    """The skill bank that contexts show from, `bank@3` or `bank`; see docs/skills.md."""
    alignment: Alignment = "ids"
    """`bytes`: teachers may have another tokenizer than the student; see docs/alignment.md."""


def load_run_file(path: Path, changes: dict[str, Any], *, task: str | None = None) -> RunFile:
    """The file with changes merged in (nested tables too), or with another task. Raises Invalid, naming the field."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.", field="file", remedy="Correct the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not TOML: {error}.", field="file", remedy="Correct the file.") from error
    return parse_run(merged(content, changes), task=task, where=str(path))


def parse_run(content: dict[str, Any], *, where: str, task: str | None = None) -> RunFile:
    """A run from plain values; `task` takes the place of its data. Raises Invalid with the first fault."""
    if task is not None:
        content = {**content, "data": {"kind": "task", "task": task}}
    try:
        return RunFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if path[:1] == ["data"]:
            del path[1:2]  # which kind of data it was taken for
        field = ".".join(path)
        raise Invalid(
            f"{where}: {field or 'the run'}: {first['msg']}.",
            field=field or None,
            remedy="Correct it in the file or on the command line; `examples/` has runs to start from.",
        ) from None


def to_create(file: RunFile, client: Client, *, base: Path) -> RunCreate:
    """The wish for a run, with the student's folder and the data's file pushed as artifacts."""
    data = file.data
    if isinstance(data, FileSource):
        data = DatasetSource(
            kind="dataset",
            artifact=_dataset(client, data.file, base),
            columns=data.columns,
            verifier=data.verifier,
            held_out=data.held_out,
        )
    return RunCreate(
        name=file.name,
        recipe=file.recipe,
        overrides=file.overrides,
        student=model_artifact(client, file.student, base=base),
        teachers=file.teachers,
        fallbacks=file.fallbacks,
        vacant=file.vacant,
        data=data,
        training=file.training,
        alignment=file.alignment,
        sampler=file.sampler,
        skills=file.skills,
    )


def assignments(pairs: list[str], *, under: str | None = None, fields: Collection[str] | None = None) -> dict[str, Any]:
    """`["training.steps=5", "objective.0.beta=0.3"]` as what a run file says.

    A path that is none of a run's own (or of `fields`, where that is given) is one of its recipe's, and stays a path:
    the control plane knows what lies there. A value is read as TOML, `null` as nothing, anything else as text. Raises
    Invalid where there is no `=`.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        path = f"{under}.{path}" if under else path
        if not equals or not all(path.split(".")):
            raise Invalid(f"{pair!r} sets nothing.", remedy="Write name=value, for example training.steps=5.")
        value, first = _value(text), path.partition(".")[0]
        if first == "overrides" and path != first:
            value = {"overrides": {path.removeprefix("overrides."): value}}
        elif first not in (RunFile.model_fields if fields is None else fields):
            value = {"overrides": {path: value}}
        else:
            for part in reversed(path.split(".")):
                value = {part: value}
        result = merged(result, value)
    return result


def _value(text: str) -> Any:
    if text == "null":  # TOML has no such value, and a recipe's settings do
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` over it, table by table."""
    result = dict(base)
    for name, value in changes.items():
        held = result.get(name)
        if isinstance(held, dict) and isinstance(value, dict):
            value = merged(held, value)  # pyright: ignore[reportUnknownArgumentType]
        result[name] = value
    return result


def _dataset(client: Client, file: str, base: Path) -> str:
    if is_artifact(file):
        return file
    path = base / Path(file).expanduser()
    if not path.exists():
        raise Invalid(
            f"The data {file!r} is not there ({path.resolve()}).",
            field="data.file",
            remedy="Give a JSONL or Parquet file, a folder of them, or sha256:... .",
        )
    return client.artifacts.push(path, ArtifactKind.DATASET, artifact_name(path.stem))
