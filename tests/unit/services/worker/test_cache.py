"""Artifacts are pulled once, whole or not at all, and forgotten oldest first."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor.client import Client
from preceptor.errors import Corrupt
from preceptor.wire.artifacts import ArtifactKind
from preceptor_services.locks import alone
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


def test_what_others_move_or_use_meanwhile_is_left_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts()
    cache = cache_on(tmp_path, artifacts, 0)
    moved, used = cache.folder_of(FIRST), cache.folder_of(SECOND)
    long_ago = time.time() - 2 * KEPT_SECONDS
    for folder in (moved, used):
        os.utime(folder, (long_ago, long_ago))

    looked_at = Path.is_dir

    def is_dir(path: Path) -> bool:
        there = looked_at(path)
        if path == moved and there:
            moved.rename(tmp_path / "elsewhere")  # by another worker, after it was found and before it is measured
        return there

    def used_by_another(path: Path) -> AbstractContextManager[None]:
        if path.name == f".{used.name}.lock":
            os.utime(used)
        return alone(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    monkeypatch.setattr("preceptor_services.worker.cache.alone", used_by_another)
    assert cache.folder_of(THIRD).is_dir()
    assert used.is_dir() and (tmp_path / "elsewhere" / "weights").is_file()


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
