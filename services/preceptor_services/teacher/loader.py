"""Which weights a teacher has and how it gets others: found to fit before anything changes, live between two requests.

A full version replaces everything, and is the base of the LoRA adapters after it. The base stays on disk while it is
one: an adapter is always added to it, never to another adapter's result.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preceptor.errors import Conflict, Invalid, Overloaded
from preceptor.tensorfiles import (
    FLOATS,
    MAX_HEADER_BYTES,
    Source,
    Stored,
    adapted_hash,
    open_file,
    open_folder,
    unfinite,
    weights_hash,
    widened,
)
from preceptor.wire.weights import WeightsKind
from preceptor_services.teacher.backends import Backend, Layout, NewWeights
from preceptor_services.teacher.lora import Merged, adapters_of

NAMED = 3
"""How many wrong names an error repeats."""


@dataclass(frozen=True, slots=True)
class Base:
    """The last full weights: what adapters are added to."""

    tensors: Mapping[str, Stored]
    hash: str
    file: Path | None = None
    """Ours, and deleted when another base takes its place; None: the folder that the teacher was started with."""
    marks: Mapping[Path, tuple[int, int]] = field(default_factory=dict[Path, tuple[int, int]])
    """Size and time of the folder's files, which are not ours to keep as they are."""

    def check(self) -> None:
        """Raises Conflict where the folder's files are not those any more that the teacher was started with."""
        for path, mark in self.marks.items():
            if not path.is_file() or _mark(path) != mark:
                raise Conflict(
                    f"base: {path} was changed since the teacher was started, so that nothing can be added to it.",
                    field="base",
                    remedy="Send full weights, or start the teacher again.",
                )


@dataclass(frozen=True, slots=True)
class Update:
    """A version that fits, and what the loader will hold once it is live."""

    weights: NewWeights
    base: Base
    adapted: frozenset[str]


class Loader:
    """A teacher's weights. One version is loaded at a time."""

    def __init__(self, backend: Backend, layout: Layout, *, frozen_head: bool, spool: Path | None) -> None:
        """`spool`: where bodies are written; None: the system's temporary folder."""
        self._backend, self._layout, self._frozen_head = backend, layout, frozen_head
        tensors = {name: each for name, each in open_folder(layout.folder).items() if name not in layout.tied}
        marks = {path: _mark(path) for path in {each.path for each in tensors.values()}}
        self._base = Base(tensors, backend.about.weights_hash or weights_hash(tensors), marks=marks)
        self._coming: Path | None = None
        self._adapted = frozenset[str]()
        if spool is not None:
            spool.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="preceptor-weights-", dir=spool))
        """Where bodies are written."""
        self._turn = asyncio.Lock()

    @property
    def max_bytes(self) -> int:
        """The largest body that can be this model's weights."""
        names = {**self._layout.shapes, **{also: self._layout.shapes[name] for also, name in self._layout.tied.items()}}
        return 8 + MAX_HEADER_BYTES + 4 * sum(math.prod(shape) for shape in names.values())

    @property
    def busy(self) -> bool:
        """Whether a version is being loaded just now."""
        return self._turn.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """While inside, no other version is loaded. Raises Overloaded (429) where one is being loaded now."""
        if self._turn.locked():
            error = Overloaded(
                "Other weights are being loaded.", remedy="Try again after Retry-After seconds.", retry_after=1.0
            )
            error.problem = error.problem.model_copy(update={"status": 429})
            raise error
        async with self._turn:
            yield

    def next_version(self, wanted: int | None) -> int:
        """The number of the version to come. Raises Conflict where `wanted` is not above the live one."""
        live = self._backend.about.weights_version
        if wanted is not None and wanted <= live:
            raise Conflict(
                f"version: {wanted} is not above {live}, the version that is live.",
                field="version",
                remedy="Number versions upwards, or leave the number out.",
            )
        return live + 1 if wanted is None else wanted

    def check_base(self, wanted: str | None) -> None:
        """Raises Conflict where an adapter was made for another base than the one that is here."""
        if wanted not in (None, self._base.hash):
            raise Conflict(
                f"base: the last full weights are {self._base.hash}, not {str(wanted)[:80]}.",
                field="base",
                remedy="Send the full weights first that the adapter was made for.",
            )

    def read(self, body: Path, kind: WeightsKind, version: int, scale: float | None) -> Update:
        """What a body holds, if it fits. Nothing is changed. Raises Invalid with a sentence; BadFrame is one (400)."""
        tensors = open_file(body)
        for name, stored in tensors.items():
            if stored.dtype not in FLOATS:
                raise Invalid(
                    f"weights: '{name[:200]}' is {stored.dtype}; weights are {', '.join(sorted(FLOATS))}.",
                    field="weights",
                )
        if kind is WeightsKind.FULL:
            if scale is not None:
                raise Invalid("scale: full weights have none; it belongs to kind=lora.", field="scale")
            return self._full(body, tensors, version)
        if scale is None or not math.isfinite(scale):
            raise Invalid(
                f"scale: an adapter needs the number that its product is multiplied with, not {scale}.",
                field="scale",
                remedy="It is lora_alpha / r, or lora_alpha / sqrt(r) where the adapter uses rslora.",
            )
        return self._lora(tensors, version, scale)

    def took(self, update: Update) -> None:
        """The update is live now."""
        self._coming = None
        old, self._base, self._adapted = self._base, update.base, update.adapted
        if old.file is not None and old.file != update.base.file:
            old.file.unlink(missing_ok=True)

    def expect(self, body: Path | None) -> None:
        """This file may become the base at any moment, whoever still waits for it; None: it will not."""
        self._coming = body

    def holds(self, body: Path) -> bool:
        """Whether this file is what adapters are added to, or may become it."""
        return body in (self._base.file, self._coming)

    def close(self) -> None:
        """Delete what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _full(self, body: Path, found: Mapping[str, Stored], version: int) -> Update:
        shapes, tied = self._layout.shapes, self._layout.tied
        _check_names(found.keys() - tied.keys(), shapes.keys())
        for name, stored in found.items():
            wanted = shapes[tied.get(name, name)]
            if stored.shape != wanted:
                raise Invalid(
                    f"weights: '{name}' is {list(stored.shape)}; this model's is {list(wanted)}.", field="weights"
                )
        _check_finite(found)
        for also in found.keys() & tied.keys():
            if not _equal(found[also], found[tied[also]]):
                raise Invalid(
                    f"weights: '{also}' and '{tied[also]}' are one tensor in this model, and differ here.",
                    field="weights",
                    remedy=f"Leave '{also}' out, or serve a model with a head of its own.",
                )
        tensors = {name: stored for name, stored in found.items() if name not in tied}
        if self._frozen_head:
            self._base.check()
        for name in self._layout.head if self._frozen_head else ():
            if not _equal(tensors[name], self._base.tensors[name]):
                raise _frozen(name)
        base = Base(tensors, weights_hash(tensors), body)
        changed = frozenset(shapes) - (self._layout.head if self._frozen_head else frozenset[str]())
        weights = NewWeights(version=version, hash=base.hash, tensors=tensors, changed=changed, spool=self.folder)
        return Update(weights, base, frozenset[str]())

    def _lora(self, found: Mapping[str, Stored], version: int, scale: float) -> Update:
        self._base.check()
        adapters = adapters_of(found, self._layout)
        if self._frozen_head and (moved := sorted(adapters.keys() & self._layout.head)):
            raise _frozen(moved[0])
        _check_finite(found)
        tensors: dict[str, Source] = dict(self._base.tensors)
        for name, adapter in adapters.items():
            tensors[name] = Merged(self._base.tensors[name], adapter, scale)
        # What the adapter before this one moved and this one does not goes back to the base.
        changed = frozenset(adapters) | self._adapted
        weights = NewWeights(
            version=version,
            hash=adapted_hash(self._base.hash, weights_hash(found), scale),
            tensors=tensors,
            changed=changed,
            spool=self.folder,
        )
        return Update(weights, self._base, frozenset(adapters))


def _check_names(found: AbstractSet[str], known: AbstractSet[str]) -> None:
    for what, names in (("has no", known - found), ("has, and this model has not,", found - known)):
        if names:
            shown = ", ".join(f"'{name[:100]}'" for name in sorted(names)[:NAMED])
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise Invalid(
                f"weights: the body {what} {shown}{more}.",
                field="weights",
                remedy="Send weights of the model that this teacher serves, under the names of its own files.",
            )


def _check_finite(tensors: Mapping[str, Stored]) -> None:
    for name, stored in tensors.items():
        if unfinite(stored.tensor()):
            raise Invalid(
                f"weights: '{name}' holds NaN or an infinity.",
                field="weights",
                remedy="Look at the run that made them; nothing was changed here.",
            )


def _mark(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _equal(one: Stored, other: Stored) -> bool:
    return np.array_equal(widened(one.tensor()), widened(other.tensor()))


def _frozen(name: str) -> Invalid:
    return Invalid(
        f"weights: '{name}' belongs to the head, which this teacher declares frozen.",
        field="weights",
        remedy="Train without the head, or start the teacher without --frozen-head.",
    )
