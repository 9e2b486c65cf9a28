"""A container for named arrays: the safetensors file format, read as if the sender were hostile.

Eight bytes of header length, a JSON header, raw little-endian arrays. `pack` writes the same bytes for the same arrays
on every machine, so that a frame can be named by its hash; `unpack` accepts what any safetensors writer makes, checks
every number in the header against the bytes that are there, and refuses with one sentence. Values are not looked at:
what they may be depends on what they mean.

bfloat16 has no numpy type: it travels as its upper sixteen bits, `uint16` in memory (see `preceptor.narrow`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from preceptor.errors import Invalid

MAX_HEADER_BYTES: Final = 1 << 20
MAX_TENSORS: Final = 64
MAX_RANK: Final = 4
CONTENT_TYPE: Final = "application/x-safetensors"

STORAGE: Final[dict[str, str]] = {
    "F32": "<f4",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "BOOL": "?",
}
"""How the dtypes of the protocol's frames are stored."""
_NAMES: Final = {"float32": "F32", "int32": "I32", "int64": "I64", "uint8": "U8", "bool": "BOOL"}


class BadFrame(Invalid):
    """The bytes are not a frame of this protocol, or its arrays do not belong together."""

    slug, title, status = "bad-frame", "Malformed frame", 400


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An array and the type it has on the wire."""

    dtype: str
    """As safetensors calls it: F32, BF16, F8_E4M3, I32, I64, U8, BOOL."""
    array: NDArray[Any]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Tensor:
        """An array that numpy has a type for."""
        return cls(_NAMES[array.dtype.name], array)


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The frame as buffers to be written one after the other; no array is copied that is contiguous already."""
    names = sorted(tensors, key=lambda name: (-_itemsize(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    buffers: list[bytes | memoryview] = []
    end = 0
    for name in names:
        tensor = tensors[name]
        array = np.ascontiguousarray(tensor.array, dtype=STORAGE[tensor.dtype])
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.array.shape), "data_offsets": [begin, end]}
        buffers.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *buffers]


def unpack(frame: bytes | bytearray | memoryview) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Arrays by name (copied out of the frame, writable, aligned) and the metadata. Raises BadFrame."""
    view = memoryview(frame).cast("B")
    if len(view) < 8:
        raise BadFrame(f"The body has {len(view)} bytes; a frame starts with its header's length in 8.")
    length = header_bytes(view[:8], len(view))
    body = view[8 + length :]
    entries, metadata = read_header(bytes(view[8 : 8 + length]), len(body))
    return {entry.name: Tensor(entry.dtype, _read(entry, body)) for entry in entries}, metadata


def header_bytes(first: bytes | memoryview, total: int, most: int = MAX_HEADER_BYTES) -> int:
    """How long the header is that follows these eight bytes, of `total`. Raises BadFrame where that cannot be."""
    length = int.from_bytes(first, "little")
    if length > most:
        raise BadFrame(f"The header claims {length} bytes; it may have at most {most}.")
    if length > total - 8:
        raise BadFrame(f"The header claims {length} bytes, but only {total - 8} follow.")
    return length


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in the body after a header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(
    text: bytes, size: int, *, storage: Mapping[str, str] = STORAGE, most: int = MAX_TENSORS
) -> tuple[list[Entry], dict[str, str]]:
    """The tensors of a body of `size` bytes, in order, without holes or overlaps, and the metadata. Raises BadFrame.

    storage: the dtypes that are known, and numpy's names for how they are stored. most: tensors.
    """
    header = _json(text)
    metadata = _metadata(header.pop("__metadata__", {}))
    if len(header) > most:
        raise BadFrame(f"The header names {len(header)} tensors; a frame holds at most {most}.")
    entries = sorted(
        (_entry(name, entry, size, storage) for name, entry in header.items()), key=lambda each: each.begin
    )
    end = 0
    for entry in entries:
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a hole before it"
            raise _bad(entry.name, f"begins at byte {entry.begin}, not {end}: it {what}")
        end = entry.end
    if end != size:
        raise BadFrame(f"The tensors end at byte {end}, but the frame's body has {size} bytes.")
    return entries, metadata


def _read(entry: Entry, body: memoryview) -> NDArray[Any]:
    raw = np.frombuffer(body[entry.begin : entry.end], dtype=np.uint8)
    if entry.dtype == "BOOL" and raw.size and int(raw.max()) > 1:
        raise _bad(entry.name, f"holds the byte {int(raw.max())}; a BOOL is 0 or 1")
    return raw.copy().view(STORAGE[entry.dtype]).reshape(entry.shape)


def _json(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadFrame("The header is not JSON that can be read.", remedy=f"The parser says: {error}.") from error
    if not isinstance(header, dict):
        raise BadFrame("The header is not a JSON object.")
    return cast("dict[str, Any]", header)


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadFrame("The header's __metadata__ is not an object of strings.", field="__metadata__")
    metadata = cast("dict[str, object]", value)
    if not all(isinstance(text, str) for text in metadata.values()):
        raise BadFrame("The header's __metadata__ is not an object of strings.", field="__metadata__")
    return cast("dict[str, str]", metadata)


def _entry(name: str, value: object, size: int, storage: Mapping[str, str]) -> Entry:
    entry = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(name, "must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], _naturals(entry["shape"]), _naturals(entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in storage:
        raise _bad(name, f"has the dtype {_short(dtype)}; known are {', '.join(storage)}")
    if shape is None or len(shape) > MAX_RANK:
        raise _bad(name, f"has no shape of at most {MAX_RANK} whole numbers")
    if offsets is None or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise _bad(name, f"has offsets outside the body of {size} bytes")
    begin, end = offsets
    itemsize = np.dtype(storage[dtype]).itemsize
    wanted = math.prod(shape) * itemsize
    if wanted != end - begin:
        raise _bad(name, f"has {end - begin} bytes, but {dtype} {_short(list(shape))} takes {_short(wanted)}")
    if math.prod(filter(None, shape)) * itemsize >= 2**63:  # numpy refuses it even where another dimension is 0
        raise _bad(name, f"has the shape {_short(list(shape))}, which no array can have")
    return Entry(name, dtype, shape, begin, end)


def _bad(name: str, what: str) -> BadFrame:
    return BadFrame(f"Tensor '{_short(name)}' {what}.", field=_short(name))


def _itemsize(dtype: str) -> int:
    return np.dtype(STORAGE[dtype]).itemsize


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    if not all(type(item) is int and 0 <= item < 2**63 for item in items):
        return None
    return tuple(cast("list[int]", items))


def _once(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    seen: dict[str, object] = {}
    for name, value in pairs:
        if name in seen:
            raise ValueError(f"the name {_short(name)} appears twice")
        seen[name] = value
    return seen


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _short(value: object) -> str:
    text = str(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."
