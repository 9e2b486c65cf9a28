"""What people write for a model, and the artifact that a run names instead.

A model is a folder, `sha256:...` (an artifact), `hub:org/name@revision`, or a name that an installed package knows (the
trainer knows `smollm2`). Whatever is not an artifact becomes a folder and is pushed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from preceptor.cli.output import needs_extra
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.artifacts import ArtifactKind

MODELS_GROUP = "preceptor.models"
"""Entry point that turns a model's name into a folder: `resolve(ref) -> Path`."""

_ARTIFACT = re.compile(r"sha256:[0-9a-f]{64}\Z")


def is_artifact(ref: str) -> bool:
    """Whether this names an artifact already."""
    return _ARTIFACT.match(ref) is not None


def model_folder(ref: str, *, base: Path | None = None) -> Path:
    """The folder of a model on this machine; a relative path is taken from `base`.

    Raises Invalid when there is no such folder or name, with what to write instead.
    """
    folder = (base or Path()) / Path(ref).expanduser()
    if folder.is_dir():
        return folder.resolve()
    for entry in entry_points(group=MODELS_GROUP):
        try:
            resolve: Callable[[str], Path] = entry.load()
            return resolve(ref)
        except ImportError:
            needs_extra(f"The model {ref!r} is no folder here; reading it by name", "trainer")
    raise Invalid(
        f"The model {ref!r} is neither an artifact nor a folder here ({folder.resolve()}).",
        field="student",
        remedy="Give a model folder or `sha256:...`; models by name need pip install 'preceptor[trainer]'.",
    )


def model_artifact(client: Client, ref: str, *, base: Path | None = None) -> str:
    """The artifact of a model: itself, or the folder pushed (nothing is sent twice: artifacts are known by content)."""
    if is_artifact(ref):
        return ref
    folder = model_folder(ref, base=base)
    return client.artifacts.push(folder, ArtifactKind.MODEL, artifact_name(folder.name))


def artifact_name(name: str) -> str:
    """A name that an artifact may have, from any file's or folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "unnamed"
