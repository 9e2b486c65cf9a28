"""Frames that somebody else might send: valid ones, mangled in every way that the format leaves open.

Everything is drawn from one `random.Random`, so that a seed names a frame. Most of what comes out is refused; some is
still a frame that means something else, and a few are unharmed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Header = dict[str, Any]

WILD_INTEGERS = (-1, 0, 1, 2, 3, 7, 63, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**400)
WILD_VALUES: tuple[Any, ...] = (
    *WILD_INTEGERS,
    None,
    True,
    False,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "F32",
    "F64",
    "I8",
    "sampled",
    "topk",
    "ids",
    "full",
    "everything",
    "\ud800",
    "\x00",
    "é" * 50,
    "x" * 2000,
    [],
    [0],
    [0, 0],
    [-1],
    [2**62, 4],
    [0, 2**62],
    [2**31, 2**31, 2**31],
    [1, 1, 1, 1, 1],
    [[0]],
    {},
    {"a": {}},
)
WILD_TEXTS = ("", "{", "[]", "null", "1", '"', "\ud800", '{"support": "sampled"', "[" * 5000, "NaN", "9" * 5000)
WILD_INTS = (-(2**31), -2, -1, 0, 1, 15, 16, 17, 1000, 2**31 - 1)
WILD_LONGS = (-(2**63), -1, 0, 1, 2, 3, 2**31, 2**62, 2**63 - 1)


def parts(frame: bytes) -> tuple[Header, bytes]:
    """A frame's header and its body."""
    length = int.from_bytes(frame[:8], "little")
    return json.loads(frame[8 : 8 + length]), frame[8 + length :]


def whole(header: object, body: bytes, claimed: int | None = None) -> bytes:
    """A frame from its header and its body. `claimed`: what it says of its header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if claimed is None else claimed
    return (length % 2**64).to_bytes(8, "little") + text + body


def mangled(rng: Random, frames: Sequence[bytes]) -> bytes:
    """One of the frames, mangled in one way or in several."""
    frame = rng.choice(frames)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        frame = rng.choice(WAYS)(rng, frame)
    return frame


def _bytes_changed(rng: Random, frame: bytes) -> bytes:
    changed = bytearray(frame)
    for _ in range(rng.randint(1, 6)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x22, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _cut(rng: Random, frame: bytes) -> bytes:
    return frame[: rng.randint(0, len(frame))]


def _grown(rng: Random, frame: bytes) -> bytes:
    place = rng.randint(0, len(frame))
    return frame[:place] + rng.randbytes(rng.choice((1, 4, 8, 100))) + frame[place:]


def _noise(rng: Random, frame: bytes) -> bytes:
    return rng.randbytes(rng.randint(0, 200))


def _length_claimed(rng: Random, frame: bytes) -> bytes:
    claimed = rng.choice((*WILD_INTEGERS[:-1], len(frame), len(frame) - 8, 1 << 20, (1 << 20) + 1))
    return (claimed % 2**64).to_bytes(8, "little") + frame[8:]


def _in_header(change: Callable[[Random, Header], None]) -> Callable[[Random, bytes], bytes]:
    def way(rng: Random, frame: bytes) -> bytes:
        try:
            header, body = parts(frame)
            change(rng, header)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # mangled before
            return frame
        return whole(header, body)

    return way


def _tensor(rng: Random, header: Header) -> dict[str, Any]:
    return header[rng.choice([name for name in header if name != "__metadata__"])]


def _dtype(rng: Random, header: Header) -> None:
    wild = ("F32", "BF16", "F8_E4M3", "I32", "I64", "BOOL", "F64", "U8", rng.choice(WILD_VALUES))
    _tensor(rng, header)["dtype"] = rng.choice(wild)


def _shape(rng: Random, header: Header) -> None:
    entry = _tensor(rng, header)
    shape = list(entry["shape"])
    way = rng.randrange(5)
    if way == 0:
        entry["shape"] = rng.choice(WILD_VALUES)
    elif way == 1:
        entry["shape"] = [*shape, rng.choice((1, 0, 2**62))]
    elif way == 2:
        entry["shape"] = [0, *shape]
    elif shape:
        shape[rng.randrange(len(shape))] = rng.choice(WILD_VALUES)
        entry["shape"] = shape


def _shape_and_dtype_that_fit(rng: Random, header: Header) -> None:
    """The same bytes as something else."""
    entry = _tensor(rng, header)
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    name, item = rng.choice((("F32", 4), ("I32", 4), ("I64", 8), ("BF16", 2), ("F8_E4M3", 1), ("BOOL", 1)))
    entry["dtype"] = name
    shapes = ([size // item], [1, size // item], [size // item, 1], [1, 1, size // item], [])
    entry["shape"] = rng.choice(shapes)


def _empty(rng: Random, header: Header) -> None:
    """No bytes, in shapes that would be enormous if they were not empty."""
    entry = _tensor(rng, header)
    begin = entry["data_offsets"][0]
    entry["data_offsets"] = [begin, begin]
    entry["shape"] = rng.choice(([0], [0, 2**62], [2**62, 0], [2**62, 2**62, 0, 2**62], [0, 0], [0, 1]))


def _offsets(rng: Random, header: Header) -> None:
    entry = _tensor(rng, header)
    offsets = list(entry["data_offsets"])
    way = rng.randrange(5)
    if way == 0:
        entry["data_offsets"] = rng.choice(WILD_VALUES)
    elif way == 1:
        entry["data_offsets"] = offsets[::-1]
    elif way == 2:
        move = rng.choice((-8, -4, -1, 1, 4, 8))
        entry["data_offsets"] = [offset + move for offset in offsets]
    elif way == 3:  # it lies where another one does
        entry["data_offsets"] = list(_tensor(rng, header)["data_offsets"])
    else:
        offsets[rng.randrange(2)] = rng.choice(WILD_VALUES)
        entry["data_offsets"] = offsets


def _names(rng: Random, header: Header) -> None:
    name = rng.choice(list(header))
    way = rng.randrange(4)
    if way == 0:
        del header[name]
    elif way == 1:
        header[rng.choice(("", "extra", "\ud800", "position_mask", "candidate_ids", "x" * 3000))] = header.pop(name)
    elif way == 2:
        header[rng.choice(("a", "position_mask", "candidate_ids", "scale"))] = header[name]
    else:
        header[name] = rng.choice(WILD_VALUES)


def _metadata(rng: Random, header: Header) -> None:
    metadata = header["__metadata__"]
    way = rng.randrange(4)
    if way == 0:
        header["__metadata__"] = rng.choice(WILD_VALUES)
    elif way == 1:
        metadata[rng.choice(list(metadata))] = rng.choice((*WILD_VALUES, *WILD_TEXTS))
    elif way == 2:
        metadata[rng.choice(("more", "\ud800"))] = rng.choice(WILD_TEXTS)
    else:
        del metadata[rng.choice(list(metadata))]


def _said(rng: Random, header: Header) -> None:
    """What the JSON inside the header says: a request's options, an answer's stamp."""
    metadata = header["__metadata__"]
    place = "request" if "request" in metadata else "stamp"
    said = json.loads(metadata[place])
    way = rng.randrange(4)
    if way == 0:
        del said[rng.choice(list(said))]
    elif way == 1:
        said[rng.choice(("colour", "\ud800", "support", "k", "__class__"))] = rng.choice(WILD_VALUES)
    else:
        said[rng.choice(list(said))] = rng.choice(WILD_VALUES)
    metadata[place] = json.dumps(said, ensure_ascii=rng.random() < 0.5)


def _values(rng: Random, frame: bytes) -> bytes:
    """A tensor's numbers: out of the vocabulary, negative, offsets that fall, floats that are none."""
    try:
        header, body = parts(frame)
        entry = _tensor(rng, header)
        begin, end = entry["data_offsets"]
        size = {"I32": 4, "I64": 8, "F32": 4, "BOOL": 1}.get(entry["dtype"], 2)
        place = begin + size * rng.randrange(max(1, (end - begin) // size))
        if size == 8:
            value = rng.choice(WILD_LONGS).to_bytes(8, "little", signed=True)
        elif entry["dtype"] == "F32":
            value = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f"))
        elif size == 4:
            value = rng.choice(WILD_INTS).to_bytes(4, "little", signed=True)
        else:
            value = rng.randbytes(size)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):  # mangled before
        return frame
    return whole(header, body[:place] + value + body[place + size :])


def _hostile_header(rng: Random, frame: bytes) -> bytes:
    """JSON that is a header in name only."""
    texts = (
        b"[" * 3000,
        b'{"a":' * 3000,
        b'{"a":1,"a":2}',
        b"[]",
        b"null",
        b'"' + b"x" * 3000,
        b"{" + b" " * 3000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":NaN}',
        b'{"\xff":1}',
        json.dumps({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(70)}).encode(),
    )
    return whole(rng.choice(texts), rng.randbytes(rng.randrange(9)), rng.choice((None, None, 5, 2**20)))


WAYS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _bytes_changed,
    _cut,
    _grown,
    _noise,
    _length_claimed,
    _in_header(_dtype),
    _in_header(_shape),
    _in_header(_shape_and_dtype_that_fit),
    _in_header(_empty),
    _in_header(_offsets),
    _in_header(_names),
    _in_header(_metadata),
    _in_header(_said),
    _in_header(_said),
    _values,
    _values,
    _hostile_header,
)
