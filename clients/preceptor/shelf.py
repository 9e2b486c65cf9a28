"""Bytes by key on disk, within a bound: what was used longest ago goes first. Several processes may share a folder.

A file is written aside and renamed, so that nobody reads half of one, and begins with a digest over its key and its
content, so that nobody believes a damaged one. How much lies there is looked up once per sixteenth of the bound that
is written, not at every write.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

BLOCK = 4096
"""What the smallest file takes of a disk, and what every size is rounded up to."""
LEFT_SECONDS = 3600.0
"""A file that was written aside this long ago belongs to a process that died."""
_DIGEST_BYTES = 32


class Shelf:
    """A bounded folder of files. Safe to share between threads, and its folder between processes.

    One process alone never leaves more than `max_bytes`; each further one that writes may add a sixteenth.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """`folder` is made by the first `put`; 0 bytes keep nothing."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._slack = max_bytes // 16
        self._room = 0
        """Bytes that may be written before the folder is looked at again."""
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put there; None where there is nothing, or nothing that is whole."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        whole = digest == _digest(key, [content])
        with suppress(OSError):  # another process may have taken it away since
            if whole:
                os.utime(path)
            else:
                path.unlink()
        return content if whole else None

    def put(self, key: str, pieces: Sequence[bytes | memoryview]) -> bool:
        """Keep the pieces, one after the other, under a key of at least three characters that may be a file's name.

        False where they are larger than the bound. Whoever wants the room may evict them at any time, also before this
        returns. Raises OSError where the disk refuses.
        """
        size = _on_disk(_DIGEST_BYTES + sum(len(piece) for piece in pieces))
        if size > self._max_bytes:
            return False
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        aside = path.with_name(f".{key}.{os.getpid()}-{threading.get_ident()}")
        try:
            with aside.open("wb") as file:
                file.write(_digest(key, pieces))
                file.writelines(pieces)
            with suppress(FileNotFoundError):  # another one that wanted room has evicted it already
                aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _make_room(self, size: int) -> None:
        with self._lock:
            if size > self._room:
                self._look(max(size, self._slack))
            self._room -= size

    def _look(self, wanted: int) -> None:
        """Count what lies there, and forget what was used longest ago until `wanted` bytes fit."""
        held = sorted(self._held())
        used = sum(size for _, size, _ in held)
        for _, size, path in held:
            if used + wanted <= self._max_bytes:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            used -= size
        self._room = wanted

    def _held(self) -> Iterator[tuple[int, int, str]]:
        """When each file was used last (nanoseconds), the bytes it takes, and its path."""
        old = time.time_ns() - int(LEFT_SECONDS * 1e9)
        for folder in self._folder.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        about = entry.stat()
                        if entry.name.startswith(".") and about.st_mtime_ns < old:
                            os.unlink(entry.path)
                            continue
                        yield about.st_mtime_ns, _on_disk(about.st_size), entry.path


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _digest(key: str, pieces: Sequence[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256(key.encode())
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
