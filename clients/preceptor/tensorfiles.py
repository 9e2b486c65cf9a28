"""A model's weights as safetensors files on disk: read as if the writer were hostile, one tensor at a time.

A folder's files are those that transformers reads: `model.safetensors`, or the shards that its index names. Nothing is
ever whole in memory: arrays are views of mapped files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from preceptor.errors import Invalid
from preceptor.narrow import from_bf16
from preceptor.tensors import BadFrame, Entry, Tensor, header_bytes, read_header

STORED: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "u1",
}  # fmt: skip
"""Every dtype of safetensors and how it is stored; eight-bit floats and bfloat16 as bare bits."""
FLOATS: Final = frozenset({"F32", "F16", "BF16"})
"""What weights may be in."""
MAX_HEADER_BYTES: Final = 8 << 20
MAX_TENSORS: Final = 1 << 18
PIECE: Final = 1 << 20
"""Bytes that are sent, or numbers that are looked at, at one time."""
MANY_NUMBERS: Final = 1 << 24
"""From so many on threads hash them: fewer are hashed sooner than threads are started."""


class Source(Protocol):
    """A tensor that is read, or made, when it is asked for."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def tensor(self) -> Tensor:
        """All of it."""
        ...

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its bytes, a few at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file."""

    path: Path
    entry: Entry
    at: int
    """Where its bytes begin in the file."""

    @property
    def dtype(self) -> str:
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def bytes(self) -> int:
        """How many it has."""
        return self.entry.end - self.entry.begin

    def tensor(self) -> Tensor:
        """The array as a view of the file, which must stay as it is while the view is used."""
        dtype = np.dtype(STORED[self.entry.dtype])
        if not self.bytes:
            return Tensor(self.entry.dtype, np.zeros(self.entry.shape, dtype))
        return Tensor(self.entry.dtype, np.memmap(self.path, dtype, "r", self.at, self.entry.shape))

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, a few at a time."""
        with self.path.open("rb") as file:
            file.seek(self.at)
            left = self.bytes
            while left:
                piece = file.read(min(left, PIECE))
                if not piece:
                    raise BadFrame(f"{self.path.name} ended inside of '{self.entry.name}': it was changed meanwhile.")
                left -= len(piece)
                yield piece


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A tensor in memory."""

    held: Tensor

    @property
    def dtype(self) -> str:
        return self.held.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.array.shape

    def tensor(self) -> Tensor:
        """It."""
        return self.held

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes, a few at a time."""
        array: NDArray[Any] = np.ascontiguousarray(self.held.array, dtype=STORED[self.dtype])
        view = array.reshape(-1).view(np.uint8).data
        return (view[begin : begin + PIECE] for begin in range(0, len(view), PIECE))


def open_file(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file, by name. Raises BadFrame, with a sentence, where it is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise BadFrame(f"It has {size} bytes; a safetensors file starts with its header's length in 8.")
        length = header_bytes(first, size, MAX_HEADER_BYTES)
        text = file.read(length)
    entries, _ = read_header(text, size - 8 - length, storage=STORED, most=MAX_TENSORS)
    return {entry.name: Stored(path, entry, 8 + length + entry.begin) for entry in entries}


def open_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder, by name. Raises Invalid where it has none, or its index does not fit them."""
    names = ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not (folder / names[0]).is_file():
        if not index.is_file():
            raise Invalid(f"{folder}: has neither model.safetensors nor an index of several.", field="model")
        names = _shards(index)
    found: dict[str, Stored] = {}
    for name in names:
        try:
            tensors = open_file(folder / name)
        except (OSError, BadFrame) as error:
            raise Invalid(f"{folder / name}: cannot be read ({error}).", field="model") from error
        if twice := sorted(found.keys() & tensors.keys()):
            raise Invalid(f"{folder}: has '{twice[0]}' in two files.", field="model")
        found |= tensors
    return found


def _shards(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(cast("dict[str, str]", content["weight_map"]).values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{index}: is no index of safetensors files ({error}).", field="model") from error
    if any(Path(name).name != name for name in names):
        raise Invalid(f"{index}: names a file outside of its folder.", field="model")
    return names


def weights_hash(tensors: Mapping[str, Source]) -> str:
    """Identity of a set of weights: over their names, dtypes, shapes and bytes, however they are spread over files."""
    whole = hashlib.sha256()
    ordered = sorted(tensors.items())
    if sum(math.prod(source.shape) for _, source in ordered) < MANY_NUMBERS:
        digests = [_digest(each) for each in ordered]
    else:
        # hashlib lets other threads run while it works: a large model is read as fast as the disk gives it.
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
            digests = list(threads.map(_digest, ordered))
    for digest in digests:
        whole.update(digest)
    return "sha256:" + whole.hexdigest()


def adapted_hash(base: str, adapter: str, scale: float) -> str:
    """Identity of what an adapter makes of a base, of which both hashes are given."""
    return "sha256:" + hashlib.sha256("\n".join(["lora", base, adapter, float(scale).hex()]).encode()).hexdigest()


def _digest(named: tuple[str, Source]) -> bytes:
    name, source = named
    digest = hashlib.sha256(json.dumps([name, source.dtype, list(source.shape)]).encode())
    for piece in source.pieces():
        digest.update(piece)
    return digest.digest()


def unfinite(tensor: Tensor) -> bool:
    """Whether a float tensor holds NaN or an infinity."""
    flat = tensor.array.reshape(-1)
    for begin in range(0, len(flat), PIECE):
        part = flat[begin : begin + PIECE]
        if tensor.dtype == "BF16":  # all ones in the exponent
            if bool(((part & np.uint16(0x7F80)) == np.uint16(0x7F80)).any()):
                return True
        elif not bool(np.isfinite(part).all()):
            return True
    return False


def widened(tensor: Tensor) -> NDArray[np.float32]:
    """A float tensor as float32, the same values, as an array of its own."""
    if tensor.dtype == "BF16":
        return from_bf16(np.ascontiguousarray(tensor.array))
    return np.array(tensor.array, dtype=np.float32)


def file_pieces(tensors: Mapping[str, Source]) -> tuple[int, Iterator[bytes | memoryview]]:
    """One safetensors file of all these tensors: how long it is, and its bytes, to be written one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in (names := sorted(tensors)):
        source = tensors[name]
        size = math.prod(source.shape) * np.dtype(STORED[source.dtype]).itemsize
        header[name] = {"dtype": source.dtype, "shape": list(source.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            yield from tensors[name].pieces()

    return 8 + len(text) + end, pieces()
