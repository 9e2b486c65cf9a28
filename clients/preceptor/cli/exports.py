"""`preceptor models`: what a run has trained, as a folder that transformers, peft and vLLM read."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from preceptor.cli import output
from preceptor.cli.models import is_artifact
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.runs import Run

EXPORTS_GROUP = "preceptor.exports"
"""Entry point that adds an adapter to its base model: `merge(base, adapter, folder)`."""

app = typer.Typer(help="Take out what was trained.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `export` a command of a group while it is the only one."""


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_ARTIFACT", help="A run's id, or `sha256:...`.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    merged: Annotated[bool, typer.Option("--merged", help="A whole model, adapters added (the default).")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, in peft's format.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Write a run's student, or a model's or checkpoint's, into a plain Hugging Face folder.

    Of a run that has not ended: as its last checkpoint holds it.
    """
    if merged and adapter:
        raise Invalid("Both --merged and --adapter: one folder holds one of them.", remedy="Leave one out.")
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Invalid(f"{folder} is there and not an empty folder.", field="folder", remedy="Name a new one.")
    with connect(url, key_file) as client:
        what = _Export(client, folder, adapter).of(source)
    if as_json:
        return output.show_json({"source": source, "folder": str(folder), "holds": what})
    output.console.print(f"{source} is in {folder}: {what}.", soft_wrap=True)


class _Export:
    """One export."""

    def __init__(self, client: Client, folder: Path, adapter: bool) -> None:
        self._client, self._folder, self._adapter = client, folder, adapter

    def of(self, source: str) -> str:
        """Write it; says what it is."""
        return self._artifact(source) if is_artifact(source) else self._run(self._client.runs.get(source))

    def _run(self, run: Run) -> str:
        if self._adapter and run.training.lora is None:
            raise Invalid(
                f"Run {run.id} trains all weights: it has no adapter.", field="adapter", remedy="Leave --adapter out."
            )
        if run.result is not None and run.result.model is not None and not self._adapter:
            self._client.artifacts.pull(run.result.model, self._folder)
            return f"the model after step {run.result.steps if run.result.kept_step is None else run.result.kept_step}"
        if run.checkpoint is None:
            raise Invalid(
                f"Run {run.id} is {run.state.value} and has no checkpoint yet.", remedy="Wait for its first one."
            )
        best = run.result is not None and run.training.keep == "best"
        return self._checkpoint(run.checkpoint.artifact, best=best)

    def _artifact(self, artifact: str) -> str:
        kind = self._client.artifacts.get(artifact).manifest.kind
        if kind is ArtifactKind.CHECKPOINT:
            return self._checkpoint(artifact, best=False)
        if kind is not ArtifactKind.MODEL:
            raise Invalid(f"{artifact} is a {kind.value}: there is no model in it.", remedy="Name a run or a model.")
        if self._adapter:
            raise Invalid(
                f"{artifact} is a whole model: it has no adapter.", field="adapter", remedy="Name the run that made it."
            )
        self._client.artifacts.pull(artifact, self._folder)
        return "the model"

    def _checkpoint(self, artifact: str, *, best: bool) -> str:
        held = [file.path for file in self._client.artifacts.get(artifact).manifest.files]
        inside = "best/" if best and any(path.startswith("best/") for path in held) else ""
        if any(path.startswith(f"{inside}model/") for path in held):
            if self._adapter:
                raise Invalid(f"{artifact} has no adapter.", field="adapter", remedy="Leave --adapter out.")
            self._client.artifacts.pull(artifact, self._folder, below=f"{inside}model")
            return "the model of the checkpoint"
        if not any(path.startswith(f"{inside}adapter/") for path in held):
            raise Invalid(f"{artifact} holds no student.", remedy="Name a checkpoint that a trainer has written.")
        if self._adapter:
            self._client.artifacts.pull(artifact, self._folder, below=f"{inside}adapter")
            return f"an adapter of {_base(self._folder)} (`preceptor artifacts pull` has it)"
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{self._folder.name}-", dir=self._folder.parent))
        try:
            self._merge(artifact, f"{inside}adapter", aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return "the model of the checkpoint, its adapter merged"

    def _merge(self, artifact: str, below: str, aside: Path) -> None:
        adapter = self._client.artifacts.pull(artifact, aside / "adapter", below=below)
        base = self._client.artifacts.pull(_base(adapter), aside / "base")
        merge = _merger()
        if self._folder.exists():
            self._folder.rmdir()
        merge(base, adapter, self._folder)


def _base(adapter: Path) -> str:
    """The artifact that an adapter folder says it belongs to."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    named = str(config.get("base_model_name_or_path") or "")
    if not is_artifact(named):
        raise Invalid(f"The adapter does not say which artifact it belongs to ({named or 'nothing'}).")
    return named


def _merger() -> Callable[[Path, Path, Path], None]:
    for entry in entry_points(group=EXPORTS_GROUP):
        try:
            return entry.load()
        except ImportError:
            break
    output.needs_extra("Merging an adapter", "trainer")
