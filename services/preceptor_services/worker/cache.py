"""Artifacts on this machine's disk, by content hash. Bounded; several workers may share one folder.

    artifacts/3f9c...    whole
    artifacts/.3f9c...   on its way

A pull that was broken off, by a cut link or a killed worker, goes on where it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from preceptor.client import Client
from preceptor.errors import Corrupt
from preceptor.wire.artifacts import ArtifactKind
from preceptor_services.locks import alone

KEPT_SECONDS = 24 * 3600
"""What was used within this time is never evicted: a run may be reading it."""

_log = logging.getLogger(__name__)


class ArtifactCache:
    """Pulls an artifact once and keeps it until the space is wanted."""

    def __init__(self, client: Client, folder: Path, limit_bytes: int) -> None:
        self._client = client
        self._folder = folder / "artifacts"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._limit_bytes = limit_bytes

    def folder_of(self, artifact: str) -> Path:
        """The artifact's files. Raises what the SDK raises when it cannot be had whole.

        A checkpoint's are hashed again every time, and what has been damaged here meanwhile is pulled again: a run that
        went on from it would have other numbers, and nobody would know.
        """
        held = self._folder / artifact.removeprefix("sha256:")
        if not held.is_dir():
            self._evict()
        with self._alone(held):
            if not held.is_dir():
                aside = self._folder / f".{held.name}"
                self._pull(artifact, aside)
                aside.rename(held)  # whole or not at all
            elif self._is_checkpoint(artifact):
                self._pull(artifact, held)
            os.utime(held)
        return held

    def _alone(self, held: Path) -> AbstractContextManager[None]:
        """Two workers must not mend one folder at once, nor one evict what the other is about to use."""
        return alone(self._folder / f".{held.name.removeprefix('.')}.lock")

    def _is_checkpoint(self, artifact: str) -> bool:
        return self._client.artifacts.get(artifact).manifest.kind is ArtifactKind.CHECKPOINT

    def _pull(self, artifact: str, folder: Path) -> None:
        try:
            self._client.artifacts.pull(artifact, folder)
        except Corrupt as error:
            if not self._is_checkpoint(artifact):
                raise
            older = "Where it stays so, go on from the checkpoint before it: `preceptor runs resume RUN --step STEP`."
            raise Corrupt(error.problem.detail, remedy=f"{error.problem.remedy or ''} {older}".strip()) from error

    def _evict(self) -> None:
        """Forget what was used longest ago, until the rest fits."""
        there = sorted(self._there())
        used = sum(size for _, size, _ in there)
        for last, size, folder in there:
            if used <= self._limit_bytes or time.time() - last < KEPT_SECONDS:
                break
            with self._alone(folder), suppress(FileNotFoundError):
                if folder.stat().st_mtime == last:
                    _log.info("evicting %s (%d bytes) from the artifact cache", folder.name, size)
                    shutil.rmtree(folder, ignore_errors=True)
                    used -= size

    def _there(self) -> Iterator[tuple[float, int, Path]]:
        """When each folder was used last, its bytes, and its path; without those that others move or drop meanwhile."""
        for folder in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if folder.is_dir():
                    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                    yield folder.stat().st_mtime, size, folder
