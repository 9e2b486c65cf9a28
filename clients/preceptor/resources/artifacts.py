"""Artifacts: folders that travel, whole or not at all.

A push names every file by its hash first and is told which contents are missing; it sends those in pieces and, cut off,
goes on where the control plane says it stopped. A pull keeps what has arrived in `.part` files and goes on there. Both
check every hash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from preceptor.connection import ATTEMPTS, Connection
from preceptor.errors import Conflict, Corrupt, Invalid, Overloaded, Unreachable
from preceptor.wire.artifacts import Artifact, ArtifactFile, ArtifactKind, BlobState, Manifest, Upload

PIECE = 8 * 2**20
"""Bytes that one upload request carries."""
WAITS = 16
"""How often is asked whether somebody else has done sending a content; about a minute."""

Progress = Callable[[str, int, int], None]
"""Called with a file's path, the bytes of it that have arrived, and its size."""


class Artifacts:
    """Artifacts of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, artifact_id: str) -> Artifact:
        """One artifact. Raises NotFound."""
        return self._connection.get(Artifact, f"/v1/artifacts/{artifact_id}")

    def list(self, kind: ArtifactKind | None = None) -> Iterator[Artifact]:
        """All artifacts, newest first."""
        return self._connection.pages(Artifact, "/v1/artifacts", {"kind": kind})

    def push(self, folder: Path | str, kind: ArtifactKind | str, name: str, progress: Progress | None = None) -> str:
        """Upload a folder, or a single file, and return the artifact's id.

        Hidden files are left out. What the control plane already has is not sent again. Raises Invalid where there is
        nothing to send or what was sent cannot be opened as this kind.
        """
        root = Path(folder)
        manifest = manifest_of(root, ArtifactKind(kind), name)
        base = root if root.is_dir() else root.parent
        upload = self._announce(manifest)
        if upload.artifact.state == "ready":
            return upload.artifact.id
        try:
            return self._fill(manifest, upload, base, progress)
        except Conflict:
            # What it shared with another artifact was forgotten with that one in between: ask again what is missing.
            return self._fill(manifest, self._announce(manifest), base, progress)

    def _fill(self, manifest: Manifest, upload: Upload, base: Path, progress: Progress | None) -> str:
        by_hash = {each.sha256: each for each in manifest.files}
        for blob in upload.missing:
            self._send(manifest, by_hash[blob.sha256], blob, base, progress)
        done = self._connection.post(Artifact, f"/v1/artifacts/{manifest.id}/complete", twice_is_once=True)
        return done.id

    def pull(
        self, artifact_id: str, folder: Path | str, progress: Progress | None = None, *, below: str | None = None
    ) -> Path:
        """Download an artifact into a folder and return the folder. Files that are there and whole are kept.

        below: only what lies in this folder of the artifact, as if that were the whole. Raises Corrupt where a hash
        differs.
        """
        root = Path(folder)
        artifact = self.get(artifact_id)
        if artifact.manifest.id != artifact_id:
            raise Corrupt(f"The manifest of {artifact_id} has the hash {artifact.manifest.id}.")
        prefix = "" if below is None else f"{below}/"
        for file in artifact.manifest.files:
            if file.path.startswith(prefix):
                self._fetch(file, root / file.path.removeprefix(prefix), progress)
        return root

    def _announce(self, manifest: Manifest) -> Upload:
        return self._connection.post(Upload, "/v1/artifacts", manifest, twice_is_once=True)

    def _send(
        self, manifest: Manifest, file: ArtifactFile, blob: BlobState, base: Path, report: Progress | None
    ) -> None:
        offset, failures = self._free_offset(manifest, file) if blob.busy else blob.offset, 0
        with (base / file.path).open("rb") as source:
            while True:
                source.seek(offset)
                piece = source.read(PIECE)
                try:
                    state = self._put(file, offset, piece)
                except (Unreachable, Overloaded, Conflict):
                    failures += 1
                    if failures >= ATTEMPTS:
                        raise
                    self._connection.pause(failures)
                    offset = self._free_offset(manifest, file)
                    continue
                offset, failures = state.offset, 0
                if report is not None:
                    report(file.path, offset, file.size)
                if offset >= file.size:
                    return

    def _put(self, file: ArtifactFile, offset: int, piece: bytes) -> BlobState:
        headers = {
            "Content-Type": "application/octet-stream",
            "Upload-Offset": str(offset),
            "Upload-Length": str(file.size),
        }
        # Not repeated blindly: a piece whose answer was lost may have arrived, and then the offset has moved.
        answer = self._connection.send(
            "PUT", f"/v1/blobs/{file.sha256}", content=piece, headers=headers, twice_is_once=False
        )
        return self._connection.parse(BlobState, answer)

    def _free_offset(self, manifest: Manifest, file: ArtifactFile) -> int:
        """Where the upload of a file goes on, once nobody else is at it: until then it would be sent for nothing.

        Who else may be this very client, whose link broke: the control plane takes a while to notice. Raises Overloaded
        where it goes on being sent.
        """
        for waited in range(WAITS):
            missing = {each.sha256: each for each in self._announce(manifest).missing}
            blob = missing.get(file.sha256)
            if blob is None or not blob.busy:
                return file.size if blob is None else blob.offset
            self._connection.pause(waited)
        raise Overloaded(f"Somebody else is sending {file.path}.", remedy="Try again when that is done.")

    def _fetch(self, file: ArtifactFile, target: Path, report: Progress | None) -> None:
        if target.is_file() and target.stat().st_size == file.size and hash_of(target) == file.sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        failures = 0
        while True:
            have = part.stat().st_size if part.exists() else 0
            if have > file.size:
                part.unlink()
                have = 0
            if part.exists() and have == file.size:
                break
            try:
                self._append(file, part, have, report)
            except (Unreachable, Overloaded):
                grown = part.exists() and part.stat().st_size > have
                failures = 0 if grown else failures + 1
                if failures >= ATTEMPTS:
                    raise
                self._connection.pause(failures)
        if (found := hash_of(part)) != file.sha256:
            part.unlink()
            raise Corrupt(f"{file.path} arrived with the hash {found}, not {file.sha256}.", remedy="Pull it again.")
        os.replace(part, target)

    def _append(self, file: ArtifactFile, part: Path, have: int, report: Progress | None) -> None:
        """Add to a part file what one connection brings."""
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with self._connection.stream(f"/v1/blobs/{file.sha256}", headers=headers) as answer:
            continued = answer.status_code == 206
            done = have if continued else 0
            with part.open("ab" if continued else "wb") as sink:
                for piece in answer.iter_raw():  # as it comes: what has arrived counts when the connection breaks off
                    sink.write(piece)
                    done += len(piece)
                    if done > file.size:
                        raise Corrupt(f"{file.path} is longer than the {file.size} bytes that its manifest states.")
                    if report is not None:
                        report(file.path, done, file.size)


def manifest_of(folder: Path, kind: ArtifactKind, name: str) -> Manifest:
    """The manifest of a folder, or of a single file: every file but hidden ones, hashed."""
    if folder.is_file():
        found = [(folder.name, folder)]
    elif folder.is_dir():
        found = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
        found = [(path, file) for path, file in found if not any(part.startswith(".") for part in path.split("/"))]
    else:
        raise Invalid(f"There is no folder or file {folder}.", field="folder", remedy="Check the path.")
    if not found:
        raise Invalid(f"{folder} holds no files.", field="folder", remedy="Name the folder that holds the files.")
    files = tuple(ArtifactFile(path=path, size=file.stat().st_size, sha256=hash_of(file)) for path, file in found)
    return Manifest(kind=kind, name=name, files=files)


def hash_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
