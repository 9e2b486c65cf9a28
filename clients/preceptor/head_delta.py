"""How a head that moves travels: as what has changed since one that the learner has. Exact, to the last bit.

A delta is a frame. Its metadata names both heads (`since`, `hash`); its tensors are

    rows    I32 [R]   the rows of `weight` that differ, rising
    weight  U8 [...]  zlib: their bytes, exclusive-or the old ones, byte plane after byte plane
    bias    U8 [...]  the same of the whole bias, where there is one

A weight that moved a little keeps its sign, its exponent and its first digits: those planes are zeros, and zeros are
next to nothing after zlib. A row that did not move is not sent.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.errors import Corrupt
from preceptor.frames import check_protocol, hash_of, head_buffers
from preceptor.tensors import STORAGE, BadFrame, Tensor, pack, read_header, unpack
from preceptor.wire.teachers import PROTOCOL

LEVEL = 1
"""Of zlib: what follows the first level is slower and hardly smaller."""
ROWS = 1 << 22
"""Numbers that are compared at one time."""


@dataclass(frozen=True, slots=True)
class HeadFrame:
    """A head's arrays as they travel, without copies."""

    weight: Tensor
    """[V, D]."""
    bias: Tensor | None

    @classmethod
    def of(cls, pieces: Sequence[bytes | memoryview]) -> HeadFrame:
        """The arrays in a frame that `head_buffers` made, or that was read in one piece. Raises BadFrame."""
        if len(pieces) == 1:
            tensors, metadata = unpack(pieces[0])
            check_protocol(metadata.get("protocol"))
        else:
            entries, _ = read_header(bytes(pieces[0])[8:], sum(len(piece) for piece in pieces[1:]))
            tensors = {
                entry.name: Tensor(entry.dtype, np.frombuffer(piece, STORAGE[entry.dtype]).reshape(entry.shape))
                for entry, piece in zip(entries, pieces[1:], strict=True)
            }
        if "weight" not in tensors or tensors["weight"].array.ndim != 2:
            raise BadFrame("The frame is not a head: it has no 'weight' of two dimensions.", field="weight")
        return cls(tensors["weight"], tensors.get("bias"))

    @property
    def kind(self) -> tuple[object, ...]:
        """What two heads must share so that one can be said as a change of the other."""
        bias = None if self.bias is None else (self.bias.dtype, self.bias.array.shape)
        return self.weight.dtype, self.weight.array.shape, bias


def encode_delta(
    old: Sequence[bytes | memoryview], since: str, new: Sequence[bytes | memoryview], hash: str
) -> list[bytes | memoryview] | None:
    """What makes the new head of the old one; None where they are too different in kind to say it so."""
    before, after = HeadFrame.of(old), HeadFrame.of(new)
    if before.kind != after.kind:
        return None
    was_VD, is_VD = _bits(before.weight), _bits(after.weight)
    rows_R = np.flatnonzero(_differ(was_VD, is_VD)).astype(np.int32)
    tensors = {"rows": Tensor.of(rows_R), "weight": _deflated(was_VD[rows_R] ^ is_VD[rows_R])}
    if before.bias is not None and after.bias is not None:
        tensors["bias"] = _deflated(_bits(before.bias) ^ _bits(after.bias))
    return pack(tensors, {"protocol": PROTOCOL, "since": since, "hash": hash})


def apply_delta(old: bytes, frame: bytes) -> list[bytes | memoryview]:
    """The new head's frame. Raises Corrupt where the delta is malformed, is for another head, or gives another."""
    try:
        tensors, metadata = unpack(frame)
        check_protocol(metadata.get("protocol"))
        since, wanted = metadata.get("since"), metadata.get("hash")
        if since != (found := hash_of([old])):
            raise BadFrame(f"it is for the head {since}, not for {found}")
        before = HeadFrame.of([old])
        weight, bias = _moved(before, tensors)
    except BadFrame as error:
        raise Corrupt(f"The change of a head is malformed: {error}") from error
    pieces = head_buffers(weight, bias)
    if hash_of(pieces) != wanted:
        raise Corrupt(f"The change of a head gives {hash_of(pieces)}, not {wanted}.", remedy="Fetch the head whole.")
    return pieces


def _moved(before: HeadFrame, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    known = {"rows", "weight"} | (set[str]() if before.bias is None else {"bias"})
    if set(tensors) != known or tensors["rows"].dtype != "I32" or tensors["rows"].array.ndim != 1:
        raise BadFrame(f"its tensors must be {', '.join(sorted(known))}, and rows I32 [R]")
    bits_VD = _bits(before.weight)
    rows_R = tensors["rows"].array
    if rows_R.size and (int(rows_R[0]) < 0 or int(rows_R[-1]) >= len(bits_VD) or bool((np.diff(rows_R) <= 0).any())):
        raise BadFrame("its rows do not rise within the head's")
    bits_VD[rows_R] ^= _inflated(tensors["weight"], (len(rows_R), bits_VD.shape[1]), bits_VD.dtype)
    weight = Tensor(before.weight.dtype, bits_VD.view(before.weight.array.dtype))
    if before.bias is None:
        return weight, None
    bits_V = _bits(before.bias)
    bits_V ^= _inflated(tensors["bias"], bits_V.shape, bits_V.dtype)
    return weight, Tensor(before.bias.dtype, bits_V.view(before.bias.array.dtype))


def _bits(tensor: Tensor) -> NDArray[Any]:
    return tensor.array.view({2: np.uint16, 4: np.uint32}[tensor.array.itemsize])


def _differ(was_VD: NDArray[Any], is_VD: NDArray[Any]) -> NDArray[np.bool_]:
    """[V] whether anything in a row differs, without an array of the head's size."""
    step = max(1, ROWS // max(1, was_VD.shape[1]))
    found = np.zeros(len(was_VD), dtype=np.bool_)
    for begin in range(0, len(was_VD), step):
        found[begin : begin + step] = (was_VD[begin : begin + step] != is_VD[begin : begin + step]).any(axis=1)
    return found


def _deflated(bits: NDArray[Any]) -> Tensor:
    planes = np.ascontiguousarray(bits.reshape(-1, 1).view(np.uint8).T)
    return Tensor.of(np.frombuffer(zlib.compress(planes.data, LEVEL), np.uint8))


def _inflated(tensor: Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    if tensor.dtype != "U8" or tensor.array.ndim != 1:
        raise BadFrame("its bytes are not U8 [N]")
    reader = zlib.decompressobj()
    try:
        raw = reader.decompress(tensor.array.tobytes(), size + 1)  # never more than can belong there
    except zlib.error as error:
        raise BadFrame(f"its bytes are not zlib's ({error})") from error
    if len(raw) != size or not reader.eof:
        raise BadFrame(f"its bytes do not become the {size} that they must")
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
