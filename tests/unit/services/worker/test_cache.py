"""Artifacts are pulled once, whole or not at all, and forgotten oldest first."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor.client import Client
from preceptor.errors import Corrupt
from preceptor.wire.artifacts import ArtifactKind
from preceptor_services.worker.cache import KEPT_SECONDS, ArtifactCache

FIRST, SECOND, THIRD = (f"sha256:{digit * 64}" for digit in "123")


class Artifacts:
    """A store whose artifacts are one file of a hundred bytes."""

    def __init__(self) -> None:
        self.pulled = list[str]()
        self.broken = False
        self.kind = ArtifactKind.MODEL

    def get(self, artifact: str) -> SimpleNamespace:
        return SimpleNamespace(manifest=SimpleNamespace(kind=self.kind))

    def pull(self, artifact: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_bytes(b"x" * 100)
        if self.broken:
            raise Corrupt("A hash differs.")
        self.pulled.append(artifact)
        return folder


def cache_on(folder: Path, artifacts: Artifacts, limit: int) -> ArtifactCache:
    return ArtifactCache(cast(Client, SimpleNamespace(artifacts=artifacts)), folder, limit)


def test_what_was_pulled_is_not_pulled_again(tmp_path: Path) -> None:
    artifacts = Artifacts()
    cache = cache_on(tmp_path, artifacts, 10**9)
    folder = cache.folder_of(FIRST)
    assert (folder / "weights").stat().st_size == 100
    assert cache.folder_of(FIRST) == folder
    assert cache_on(tmp_path, artifacts, 10**9).folder_of(FIRST) == folder
    assert artifacts.pulled == [FIRST]


def test_what_is_held_of_a_checkpoint_is_checked_before_it_is_used(tmp_path: Path) -> None:
    artifacts = Artifacts()
    artifacts.kind = ArtifactKind.CHECKPOINT
    cache = cache_on(tmp_path, artifacts, 10**9)
    weights = cache.folder_of(FIRST) / "weights"
    weights.write_bytes(b"y" * 100)
    assert (cache.folder_of(FIRST) / "weights").read_bytes() == b"x" * 100
    artifacts.broken = True
    with pytest.raises(Corrupt):
        cache.folder_of(FIRST)


def test_half_an_artifact_is_never_there(tmp_path: Path) -> None:
    artifacts = Artifacts()
    cache = cache_on(tmp_path, artifacts, 10**9)
    artifacts.broken = True
    with pytest.raises(Corrupt):
        cache.folder_of(FIRST)
    assert [path.name[0] for path in (tmp_path / "artifacts").iterdir()] == ["."], "on its way, and nothing else"
    artifacts.broken = False
    assert cache.folder_of(FIRST).is_dir()


def test_of_several_that_want_it_one_pulls_it(tmp_path: Path) -> None:
    artifacts = Artifacts()
    caches = [cache_on(tmp_path, artifacts, 10**9) for _ in range(4)]
    with ThreadPoolExecutor(len(caches)) as threads:
        folders = set(threads.map(lambda cache: cache.folder_of(FIRST), caches))
    assert artifacts.pulled == [FIRST]
    assert list((tmp_path / "artifacts").iterdir()) == list(folders), "no lock is left"


def test_the_longest_unused_goes_first_and_nothing_recent_goes(tmp_path: Path) -> None:
    artifacts = Artifacts()
    cache = cache_on(tmp_path, artifacts, 150)
    old, older = cache.folder_of(FIRST), cache.folder_of(SECOND)
    long_ago = time.time() - 2 * KEPT_SECONDS
    os.utime(old, (long_ago, long_ago))
    os.utime(older, (long_ago - 60, long_ago - 60))
    cache.folder_of(THIRD)
    assert old.is_dir() and not older.is_dir()

    full = cache_on(tmp_path / "full", artifacts, 0)
    recent = full.folder_of(FIRST)
    full.folder_of(SECOND)
    assert recent.is_dir(), "a run may be reading it"
