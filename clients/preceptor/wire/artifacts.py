"""Artifacts on the wire: models, datasets and checkpoints, held under their content hash."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from preceptor.wire.common import ArtifactId, Count, Sha256, Wire

PATH_LIMIT = 400
FILE_LIMIT = 10_000


class ArtifactKind(StrEnum):
    """What an artifact is."""

    MODEL = "model"
    DATASET = "dataset"
    CHECKPOINT = "checkpoint"


class ArtifactFile(Wire):
    """One file of an artifact."""

    path: str = Field(min_length=1, max_length=PATH_LIMIT)
    """Where it lies in the folder: relative, with `/`, without `..`."""
    size: Count
    """Bytes."""
    sha256: Sha256
    """Hash of its bytes."""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or PurePosixPath(path).is_absolute():
            raise ValueError(f"{path!r} is not a plain relative path; write it without '..', '.' or a leading '/'")
        if any(ord(char) < 32 or char in '\\:*?"<>|\x7f' for char in path):
            raise ValueError(f"{path!r} holds a character that a file name cannot have everywhere; rename the file")
        return path


class Manifest(Wire):
    """What an artifact consists of. Its hash is the artifact's id."""

    kind: ArtifactKind
    """What it is."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/@ -]{0,199}$")
    """What people call it."""
    files: tuple[ArtifactFile, ...] = Field(min_length=1, max_length=FILE_LIMIT)
    """Its files, by path."""

    @model_validator(mode="after")
    def _paths_are_distinct(self) -> Self:
        paths = sorted(each.path for each in self.files)
        for left, right in pairwise(paths):
            if left == right:
                raise ValueError(f"files: {left!r} is listed twice; list each file once")
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        for path in paths:
            if path in folders:
                raise ValueError(f"files: {path!r} is both a file and a folder; rename one of them")
        return self

    @property
    def id(self) -> str:
        """`sha256:` and the hash of the manifest's canonical JSON: sorted keys, no spaces, files in order of path."""
        by_path = sorted(self.files, key=lambda each: each.path)
        files = [{"path": each.path, "sha256": each.sha256, "size": each.size} for each in by_path]
        canonical = {"files": files, "kind": self.kind.value, "name": self.name}
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self.files)


class BlobState(Wire):
    """How much of one file's content the control plane already has."""

    sha256: Sha256
    """Hash of the content."""
    size: Count
    """Bytes it has when it is whole."""
    offset: Count
    """Bytes received so far: where an upload goes on."""
    busy: bool = False
    """Whether somebody is sending it just now: a piece of anybody else would be refused."""


class ArtifactState(StrEnum):
    """Whether an artifact can be used."""

    UPLOADING = "uploading"
    READY = "ready"


class ModelFacts(Wire):
    """What opening a model folder showed."""

    kind: Literal["model"] = "model"
    """Says that these are a model's facts."""
    architecture: str
    """The class that `config.json` names, e.g. `Qwen3ForCausalLM`."""
    parameters: Count
    """Numbers in its safetensors files."""
    fingerprint: str
    """The tokenizer's fingerprint: two models with the same one read the same ids the same way."""
    vocab_size: Count
    """Ids that the model knows."""
    longest_token: Count
    """Characters in the longest entry of the tokenizer's vocabulary. With it, a prompt's length in characters bounds
    its length in tokens from below."""
    chat_template: bool
    """Whether the folder brings a chat template."""
    max_tokens: Count | None = None
    """Tokens that it reads at most, by its config; None: that does not say."""
    unalignable: str | None = None
    """Why a teacher with another tokenizer cannot be aligned with this one by bytes; None: it can."""


class ColumnFacts(Wire):
    """What the rows hold in one column."""

    filled: Count
    """Rows in which it is neither missing, null nor empty."""
    longest: Count
    """Non-blank ASCII characters of its longest all-ASCII value; chat messages count by their content."""
    values: tuple[str, ...] | None = None
    """All that it says, where that is a few short words or numbers (domains, say); None: it is more, or not known."""


class DatasetFacts(Wire):
    """What parsing a dataset showed."""

    kind: Literal["dataset"] = "dataset"
    """Says that these are a dataset's facts."""
    rows: Count
    """How many rows it has."""
    columns: dict[str, ColumnFacts]
    """Its columns, by name."""


class CheckpointFacts(Wire):
    """A checkpoint is opened by the worker that resumes from it; the control plane checks its hashes."""

    kind: Literal["checkpoint"] = "checkpoint"
    """Says that these are a checkpoint's facts."""


Facts = Annotated[ModelFacts | DatasetFacts | CheckpointFacts, Field(discriminator="kind")]


class Artifact(Wire):
    """An artifact."""

    id: ArtifactId
    """Its content hash."""
    manifest: Manifest
    """What it consists of."""
    state: ArtifactState
    """Whether all of it is here and was found readable."""
    size: Count
    """Bytes of all files."""
    facts: Facts | None = None
    """What opening it showed; None until it is ready."""
    created_at: datetime
    """When it was first announced."""


class Upload(Wire):
    """What is still to be sent of an artifact."""

    artifact: Artifact
    """The artifact."""
    missing: tuple[BlobState, ...]
    """Contents that are not whole yet. Empty: ask for `complete`."""
