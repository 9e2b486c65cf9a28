"""What of a head has changed: exact for every dtype, small where little moved, and never believed unchecked."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.errors import Corrupt
from preceptor.frames import hash_of, head_buffers
from preceptor.head_delta import apply_delta, encode_delta
from preceptor.narrow import to_bf16
from preceptor.tensors import Tensor, pack, unpack

V, D = 40, 24
Pieces = list[bytes | memoryview]


def head(weight_VD: np.ndarray, dtype: str, bias_V: np.ndarray | None = None) -> Pieces:
    def tensor(array: np.ndarray) -> Tensor:
        return Tensor("BF16", to_bf16(array)) if dtype == "BF16" else Tensor.of(array)

    return head_buffers(tensor(weight_VD), None if bias_V is None else tensor(bias_V))


def delta(old: Pieces, new: Pieces) -> bytes:
    found = encode_delta(old, hash_of(old), new, hash_of(new))
    assert found is not None
    return b"".join(found)


def applied(old: Pieces, new: Pieces) -> bytes:
    return b"".join(apply_delta(b"".join(old), delta(old, new)))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(
    st.integers(0, 99),
    st.sampled_from(["F32", "BF16"]),
    st.booleans(),
    st.lists(st.integers(0, V - 1), max_size=6),
    st.sampled_from([0.0, 1e-6, 1e-2, 10.0]),
)
def test_what_arrives_is_the_new_head_to_the_last_bit(
    seed: int, dtype: str, bias: bool, rows: list[int], by: float
) -> None:
    old_VD, old_V = normal(seed, V, D), normal(seed + 1, V) if bias else None
    new_VD = old_VD.copy()
    new_VD[rows] *= 1 + by * normal(seed + 2, len(rows), D)
    old = head(old_VD, dtype, old_V)
    new = head(new_VD, dtype, None if old_V is None else old_V * (1 + by))
    assert applied(old, new) == b"".join(new)


def test_odd_bits_survive() -> None:
    odd = np.array([[0.0, -0.0, 1e-45, np.finfo(np.float32).max]], dtype=np.float32)
    old, new = head(odd, "F32"), head(-odd, "F32")
    assert applied(old, new) == b"".join(new)


def test_nothing_is_sent_of_rows_that_stayed() -> None:
    weight_VD = normal(0, 4000, 64)
    moved_VD = weight_VD.copy()
    moved_VD[17, 3] += 1
    old, new = head(weight_VD, "F32"), head(moved_VD, "F32")
    frame = delta(old, new)
    assert len(frame) < 600
    tensors, metadata = unpack(frame)
    assert tensors["rows"].array.tolist() == [17]
    assert (metadata["since"], metadata["hash"]) == (hash_of(old), hash_of(new))


@pytest.mark.parametrize(("dtype", "most"), [("F32", 0.6), ("BF16", 0.2)])
def test_a_small_move_of_everything_is_less_than_the_whole(dtype: str, most: float) -> None:
    weight_VD = normal(0, 2000, 64)
    old, new = head(weight_VD, dtype), head(weight_VD * (1 + 1e-3 * normal(1, 2000, 64)), dtype)
    assert len(delta(old, new)) < most * sum(map(len, new))


def test_heads_of_different_kinds_have_no_change() -> None:
    weight_VD = normal(0, V, D)
    old = head(weight_VD, "F32")
    for other in (head(weight_VD, "BF16"), head(weight_VD[:-1], "F32"), head(weight_VD, "F32", normal(1, V))):
        assert encode_delta(old, hash_of(old), other, hash_of(other)) is None


def changed(frame: bytes, **tensors: Tensor | None) -> bytes:
    found, metadata = unpack(frame)
    found = {name: each for name, each in {**found, **tensors}.items() if each is not None}
    return b"".join(pack(found, metadata))


def u8(content: bytes) -> Tensor:
    return Tensor.of(np.frombuffer(content, np.uint8))


def ids(*rows: int) -> Tensor:
    return Tensor.of(np.array(rows, dtype=np.int32))


BOMB = zlib.compress(bytes(64 << 20), 9)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rows": None}, "must be rows, weight"),
    ({"more": ids(1)}, "must be rows, weight"),
    ({"rows": Tensor.of(np.array([1.0], dtype=np.float32))}, "rows I32"),
    ({"rows": ids(V)}, "within the head's"),
    ({"rows": ids(-1)}, "within the head's"),
    ({"rows": ids(3, 3)}, "do not rise"),
    ({"rows": ids(3, 4, 5)}, "do not become"),
    ({"weight": ids(1)}, "not U8"),
    ({"weight": u8(b"\x00" * 9)}, "not zlib's"),
    ({"weight": u8(BOMB)}, "do not become"),
    ({"weight": u8(zlib.compress(bytes(4 * D))[:-3])}, "do not become"),
    ({"weight": u8(zlib.compress(bytes(4 * D)))}, "gives sha256"),
]


@pytest.mark.parametrize(("tensors", "why"), WRONG)
def test_what_does_not_lead_to_the_head_is_refused(tensors: dict[str, Any], why: str) -> None:
    weight_VD = normal(0, V, D)
    moved_VD = weight_VD.copy()
    moved_VD[7] += 1
    old, new = head(weight_VD, "F32"), head(moved_VD, "F32")
    with pytest.raises(Corrupt, match=why):
        apply_delta(b"".join(old), changed(delta(old, new), **tensors))


def test_a_change_of_another_head_is_refused() -> None:
    one, two, three = (head(normal(seed, V, D), "F32") for seed in range(3))
    with pytest.raises(Corrupt, match="it is for the head"):
        apply_delta(b"".join(three), delta(one, two))
    with pytest.raises(Corrupt, match="malformed"):
        apply_delta(b"".join(one), b"\xff" * 30)
