"""Contents on disk, under their hashes. The disk is the truth: a file in its place is whole, a part has its length.

    blobs/3f/3f9c...          whole, hash checked
    blobs/parts/3f9c....1024  on its way to 1024 bytes

A content is written aside, checked, flushed to the disk and renamed: a half-written one is never read. Names are made
of hashes only, so that nothing that a user writes becomes a path.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preceptor.errors import Conflict, Invalid, Overloaded, PreceptorError, ServerFault, TooLarge
from preceptor.wire.artifacts import Manifest
from preceptor_services.locks import is_at

READ = 2**20
AGAIN = 2.0
"""Seconds after which to ask again for the right to send a content: who has it may have lost its link."""


class DiskFull(PreceptorError):
    """There is no room for what was sent."""

    slug, title, status = "disk-full", "Disk full", 507


class Part:
    """A content on its way, locked by whoever writes it."""

    def __init__(self, blobs: Blobs, sha256: str, size: int, descriptor: int) -> None:
        self._blobs, self._sha256, self._size, self._descriptor = blobs, sha256, size, descriptor
        self.offset = os.fstat(descriptor).st_size
        """Bytes that have arrived."""

    def write(self, piece: bytes) -> None:
        """Add bytes. Raises TooLarge beyond the size that was announced, DiskFull where there is no room."""
        if self.offset + len(piece) > self._size:
            raise TooLarge(
                f"More bytes came than the {self._size} that were announced.", remedy="Check the file's size."
            )
        view = memoryview(piece)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self.offset)
                self.offset += written
                view = view[written:]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    "The disk that holds artifacts is full.", remedy="Have its operator make room."
                ) from error
            raise

    def finish(self) -> None:
        """Check the hash and put the content in its place. Raises Invalid, having dropped it, where it differs."""
        found = self._blobs.hash_of(self._blobs.part(self._sha256, self._size))
        if found != self._sha256:
            os.unlink(self._blobs.part(self._sha256, self._size))
            raise Invalid(
                f"The bytes have the hash {found}, not {self._sha256}; they were dropped.",
                field="sha256",
                remedy="Send the file again from the start.",
            )
        os.fsync(self._descriptor)
        target = self._blobs.path(self._sha256)
        target.parent.mkdir(exist_ok=True)
        os.replace(self._blobs.part(self._sha256, self._size), target)


class Blobs:
    """A folder of contents."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = folder / "parts"
        self._folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Where a content lies, once it is whole."""
        return self._folder / sha256[:2] / sha256

    def part(self, sha256: str, size: int) -> Path:
        """Where a content lies while it is on its way."""
        return self._parts / f"{sha256}.{size}"

    def has(self, sha256: str, size: int) -> bool:
        """Whether a content is here and whole."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def offset(self, sha256: str, size: int) -> int:
        """How many bytes of a content are here."""
        if self.has(sha256, size):
            return size
        try:
            return self.part(sha256, size).stat().st_size
        except FileNotFoundError:
            return 0

    def busy(self, sha256: str, size: int) -> bool:
        """Whether somebody is sending a content just now."""
        try:
            with self.part(sha256, size).open("rb") as part:
                fcntl.flock(part, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def writing(self, sha256: str, size: int) -> Generator[Part]:
        """A content's part, for one writer at a time. Raises Overloaded while there is another."""
        path = self.part(sha256, size)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Overloaded(
                    "Somebody else is sending this content just now.", remedy="Try again later.", retry_after=AGAIN
                ) from error
            if not is_at(descriptor, path):
                raise Conflict("Somebody else has just sent this content.", remedy="Ask what is still missing.")
            yield Part(self, sha256, size, descriptor)
        finally:
            os.close(descriptor)

    def read(self, sha256: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` up to `stop` of a whole content, even where it is dropped meanwhile. Raises
        FileNotFoundError."""
        reading = self._read(sha256, start, stop)
        next(reading)  # opens it
        return reading

    def _read(self, sha256: str, start: int, stop: int) -> Iterator[bytes]:
        with self.path(sha256).open("rb") as source:
            source.seek(start)
            yield b""
            left = stop - start
            while left > 0 and (piece := source.read(min(READ, left))):
                left -= len(piece)
                yield piece

    def files(self, manifest: Manifest) -> dict[str, Path]:
        """Where each file of an artifact lies. Raises ServerFault where a content is gone."""
        found = {file.path: self.path(file.sha256) for file in manifest.files}
        for name, path in found.items():
            if not path.is_file():
                raise ServerFault(f"The content of {name} is gone from the disk.", remedy="Push the artifact again.")
        return found

    def drop(self, sha256: str) -> None:
        """Forget a whole content."""
        self.path(sha256).unlink(missing_ok=True)

    def drop_parts(self, older_than: float) -> int:
        """Forget parts that nobody has added to since a moment (seconds since the epoch); how many they were."""
        dropped = 0
        for path in self._parts.iterdir():
            with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as part:
                if os.fstat(part.fileno()).st_mtime < older_than:
                    fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not while somebody goes on with it
                    if is_at(part.fileno(), path):
                        path.unlink()
                        dropped += 1
        return dropped

    @staticmethod
    def hash_of(path: Path) -> str:
        """SHA-256 of a file, in hex."""
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
