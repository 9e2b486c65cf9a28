"""Weights on disk: what safetensors writes is read, its identity is of its content, hostile files end in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save_file

from preceptor.errors import Invalid
from preceptor.narrow import to_bf16
from preceptor.tensorfiles import (
    Held,
    adapted_hash,
    file_pieces,
    open_file,
    open_folder,
    unfinite,
    weights_hash,
    widened,
)
from preceptor.tensors import BadFrame, Tensor
from preceptor.weights import body_of
from preceptor.wire.weights import WeightsKind

rng = np.random.default_rng(0)
ARRAYS = {
    "b.weight": rng.standard_normal((5, 3)).astype(np.float32),
    "a.weight": rng.standard_normal((4,)).astype(np.float16),
    "scalar": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 3), dtype=np.float32),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(ARRAYS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def test_arrays_are_those_that_were_written(file: Path) -> None:
    found = open_file(file)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].tensor().array, array)
        assert b"".join(bytes(piece) for piece in found[name].pieces()) == array.tobytes()


def test_what_is_written_safetensors_reads(file: Path) -> None:
    held = {name: Held(Tensor("F16" if array.dtype == np.float16 else "F32", array)) for name, array in ARRAYS.items()}
    for sources in (open_file(file), held):
        size, pieces = file_pieces(sources)
        content = b"".join(bytes(piece) for piece in pieces)
        assert len(content) == size
        found = load(content)
        assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_a_hash_is_of_names_dtypes_shapes_and_bytes_and_of_nothing_else(file: Path, tmp_path: Path) -> None:
    whole = weights_hash(open_file(file))
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(ARRAYS)
    weight_map = {name: f"{index % 2}.safetensors" for index, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({name: ARRAYS[name] for name in names if weight_map[name] == shard}, shards / shard)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert weights_hash(open_folder(shards)) == whole == weights_hash(open_folder(tmp_path))
    other = Held(Tensor.of(ARRAYS["b.weight"].reshape(3, 5)))
    assert weights_hash({**open_file(file), "b.weight": other}) != whole
    renamed = {("c" if name == "scalar" else name): each for name, each in open_file(file).items()}
    assert weights_hash(renamed) != whole
    assert len({adapted_hash(whole, whole, 1.0), adapted_hash(whole, whole, 2.0), whole}) == 3
    assert body_of(shards).hash() == whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_not_finite_is_found(value: float, dtype: str) -> None:
    array = np.ones((3, 400_000), dtype=np.float32)
    stored = {"F32": lambda a: a, "F16": lambda a: a.astype(np.float16), "BF16": to_bf16}[dtype]
    assert not unfinite(Tensor(dtype, stored(array)))
    array[2, -1] = value
    assert unfinite(Tensor(dtype, stored(array)))


def test_narrow_floats_are_widened_exactly() -> None:
    array = rng.standard_normal(50).astype(np.float32)
    bits = to_bf16(array)
    np.testing.assert_array_equal(widened(Tensor("BF16", bits)).view(np.uint32), bits.astype(np.uint32) << 16)
    half = array.astype(np.float16)
    np.testing.assert_array_equal(widened(Tensor("F16", half)), half.astype(np.float32))


@given(st.data())
def test_damaged_files_end_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    save_file(ARRAYS, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content), 260) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        found = open_file(path)
    except BadFrame as error:
        assert error.problem.detail.endswith((".", "!"))
    else:
        for each in found.values():
            each.tensor()


def test_a_folder_without_weights_and_one_with_a_bad_index_say_so(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"has neither model\.safetensors nor an index"):
        open_folder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for content, why in (
        ("{", "is no index"),
        ('{"weight_map": []}', "is no index"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "outside of its folder"),
        ('{"weight_map": {"a": "a.safetensors"}}', "cannot be read"),
    ):
        index.write_text(content)
        with pytest.raises(Invalid, match=why):
            open_folder(tmp_path)


def test_arrays_that_are_no_weights_are_not_sent() -> None:
    with pytest.raises(Invalid, match="'x' is int64"):
        body_of({"x": np.zeros(3, dtype=np.int64)})
    body = body_of({"x": np.zeros(3, dtype=np.float32)}, WeightsKind.LORA, 0.5)
    assert body.query(3) == "kind=lora&version=3&scale=0.5" and body.hash() is None
