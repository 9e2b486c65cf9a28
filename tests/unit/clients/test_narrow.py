"""Narrow floats agree with torch, bit for bit where they can."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

from preceptor.narrow import from_bf16, from_f8, to_bf16, to_f8

floats = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8))


@given(floats)
def test_bf16_rounds_as_torch_does(array: np.ndarray) -> None:
    ours = from_bf16(to_bf16(array))
    theirs = torch.from_numpy(array).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(ours, theirs)


@given(hnp.arrays(np.uint16, (4, 4)))
def test_bf16_values_survive(bits: np.ndarray) -> None:
    values = from_bf16(bits)
    np.testing.assert_array_equal(from_bf16(to_bf16(values)), values)


@given(hnp.arrays(np.float32, (3, 6), elements={"min_value": -8192, "max_value": 8192}))
def test_f8_rounds_as_torch_does(array: np.ndarray) -> None:
    codes, scale = to_f8(array)
    theirs = torch.from_numpy(array / scale[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(codes & 127, theirs.view(torch.uint8).numpy() & 127)
    bound = np.maximum(np.abs(array) / 16, scale[:, None] * 2.0**-9)
    assert (np.abs(from_f8(codes, scale) - array) <= bound * 1.0001).all()


def test_a_row_of_zeros_is_a_row_of_zeros() -> None:
    codes, scale = to_f8(np.zeros((2, 3), dtype=np.float32))
    np.testing.assert_array_equal(from_f8(codes, scale), 0)
