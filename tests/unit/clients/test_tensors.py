"""The container: what it writes safetensors reads, and the other way round; hostile bytes end in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from preceptor.tensors import MAX_HEADER_BYTES, BadFrame, Tensor, pack, unpack

arrays = st.dictionaries(
    st.text("abcdef_", min_size=1, max_size=8),
    st.sampled_from([np.float32, np.int32, np.int64, np.bool_]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    max_size=5,
)


def frame_of(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@given(arrays)
def test_what_is_packed_comes_back(tensors: dict[str, np.ndarray]) -> None:
    frame = b"".join(pack({name: Tensor.of(array) for name, array in tensors.items()}, {"a": "b"}))
    found, metadata = unpack(frame)
    assert metadata == {"a": "b"}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].array.dtype == array.dtype
        np.testing.assert_array_equal(found[name].array, array)
        assert found[name].array.flags.writeable and found[name].array.flags.aligned


@given(arrays)
def test_safetensors_reads_what_is_packed(tensors: dict[str, np.ndarray]) -> None:
    frame = b"".join(pack({name: Tensor.of(array) for name, array in tensors.items()}, {}))
    found = safetensors.numpy.load(frame)
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name], equal_nan=array_is_float(tensors[name])) for name in tensors)


def array_is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


@given(arrays)
def test_what_safetensors_writes_is_read(tensors: dict[str, np.ndarray]) -> None:
    found, _ = unpack(safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name].array.reshape(array.shape), array)


def test_the_same_arrays_are_the_same_bytes_in_any_order() -> None:
    one, two = Tensor.of(np.arange(3, dtype=np.int32)), Tensor.of(np.ones((2, 2), dtype=np.float32))
    assert b"".join(pack({"a": one, "b": two}, {"x": "1", "y": "2"})) == b"".join(
        pack({"b": two, "a": one}, {"y": "2", "x": "1"})
    )


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "0 bytes"),
        (b"\0" * 7, "7 bytes"),
        ((2**63).to_bytes(8, "little"), "at most"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 1), "at most"),
        ((100).to_bytes(8, "little") + b"{}", "only 2 follow"),
        (frame_of(b"[1]"), "not a JSON object"),
        (frame_of(b"\xff\xfe"), "not JSON"),
        (frame_of(b"[" * 100_000), "not JSON"),
        (frame_of(b'{"a": ' + b"9" * 5000 + b"}"), "not JSON"),
        (frame_of(b'{"a": NaN}'), "not JSON"),
        (frame_of(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"), "twice"),
        (frame_of({"__metadata__": {"a": 1}}), "strings"),
        (frame_of({"__metadata__": []}), "strings"),
        (frame_of({"x": 3}), "must have dtype"),
        (frame_of({"x": {**entry(), "y": 1}}), "nothing else"),
        (frame_of({"x": entry(dtype="F64")}), "known are"),
        (frame_of({"x": entry(dtype=["F32"])}), "known are"),
        (frame_of({"\ud800": entry(dtype="F64")}), "known are"),
        (frame_of({"x": entry(shape=[-1])}, b"0000"), "whole numbers"),
        (frame_of({"x": entry(shape=[True])}, b"0000"), "whole numbers"),
        (frame_of({"x": entry(shape=[1.0])}, b"0000"), "whole numbers"),
        (frame_of({"x": entry(shape=[2**63 - 1] * 4)}, b"0000"), "takes"),
        (frame_of({"x": entry(shape=[0, 2**62], offsets=[0, 0])}), "no array can have"),
        (frame_of({"x": entry(shape=[1] * 9)}, b"0000"), "at most 4"),
        (frame_of({"x": entry(offsets=[0, 8])}, b"0000"), "outside"),
        (frame_of({"x": entry(offsets=[4, 0])}, b"0000"), "outside"),
        (frame_of({"x": entry(offsets=[0])}, b"0000"), "outside"),
        (frame_of({"x": entry(shape=[2])}, b"0000"), "takes 8"),
        (frame_of({"x": entry(), "y": entry()}, b"0000"), "overlaps"),
        (frame_of({"x": entry(offsets=[4, 8])}, b"0" * 8), "hole"),
        (frame_of({"x": entry()}, b"0" * 8), "end at byte 4"),
        (frame_of({"x": entry("BOOL", [4], [0, 4])}, b"\0\1\2\0"), "0 or 1"),
        (frame_of({f"t{index}": entry(shape=[0], offsets=[0, 0]) for index in range(65)}), "at most 64"),
    ],
)
def test_hostile_bytes_are_refused_with_a_sentence(frame: bytes, says: str) -> None:
    with pytest.raises(BadFrame, match=says) as caught:
        unpack(frame)
    assert caught.value.problem.status == 400
    caught.value.problem.model_dump_json()  # every sentence can be sent


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    try:
        unpack(frame)
    except BadFrame as error:
        assert error.problem.detail


@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    frame = bytearray(b"".join(pack({"x": Tensor.of(np.arange(4, dtype=np.int32))}, {"protocol": "1"})))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(frame)
    except BadFrame as error:
        assert error.problem.detail
