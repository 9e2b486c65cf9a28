"""Output projections on disk, by their hash: each is fetched once, and checked every time it is read.

Of a teacher that moves, what has changed since the head that was fetched before is fetched, where that is less.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from preceptor.adapters import Endpoint
from preceptor.errors import BadScores, Corrupt
from preceptor.frames import decode_head
from preceptor.persist import persist
from preceptor.replica import Replica
from preceptor.replicas import Replicas
from preceptor.wire.score import Head

KEPT = 3
"""Heads of one teacher that are left on disk. A head is large, and a teacher that moves has many."""


class Heads:
    """Safe to share between threads; several processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fetching = threading.Lock()
        self._fetched: dict[str, list[Path]] = {}  # by teacher, the latest last
        self._latest: dict[str, Path] = {}  # by teacher, whoever fetched it: what a change may start from

    def get(self, wanted: str, replicas: Replicas, patience: float, *, hasty: bool = False) -> Head:
        """The head of this hash, from disk or else from the teacher; a server that keeps only one may give another.

        Raises what fetching raises (TeacherRefused where the teacher has moved on and the head is gone), and BadScores
        where what arrived is not what its hash says.
        """
        with self._fetching:
            head = self._kept(wanted) or self._fetch(wanted, replicas, patience, hasty)
            self._latest[replicas.name] = self._path(head.hash)
            return head

    def _path(self, hash: str) -> Path:
        return self._folder / f"{hash.removeprefix('sha256:')}.safetensors"

    def _kept(self, wanted: str) -> Head | None:
        path = self._path(wanted)
        try:
            return decode_head(path.read_bytes(), wanted)
        except FileNotFoundError:  # whoever fetched it may have taken it away since
            return None
        except Corrupt:
            path.unlink(missing_ok=True)  # a damaged file: fetched again
            return None

    def _fetch(self, wanted: str, replicas: Replicas, patience: float, hasty: bool) -> Head:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{os.getpid()}-{threading.get_ident()}.part"
        begun_at: list[Replica] = []
        fetched = self._fetched.setdefault(replicas.name, [])

        def attempt(replica: Replica, client: Endpoint, left: float) -> str:
            if begun_at and begun_at[-1] is not replica:
                part.unlink(missing_ok=True)  # what one endpoint began another one need not go on with
            begun_at.append(replica)
            known = (self._latest.get(replicas.name), *reversed(fetched))
            since = next((path for path in known if path is not None and path.exists()), None)
            return client.download_head(
                part, hash=wanted, since=since, count=lambda size: replicas.tally.count(head_bytes=size)
            )

        try:
            hash = persist(replicas, attempt, patience=patience, hasty=hasty)
            frame = part.read_bytes()
            try:
                head = decode_head(frame, hash)
            except Corrupt as error:
                raise BadScores(error.problem, teacher=replicas.name) from error
            part.replace(self._path(hash))  # the teacher may have moved: what is kept is named by what it is
            fetched.append(self._path(hash))
            for old in fetched[:-KEPT]:
                old.unlink(missing_ok=True)
            del fetched[:-KEPT]
            return head
        finally:
            part.unlink(missing_ok=True)
