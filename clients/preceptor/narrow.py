"""Narrow floats without torch: bfloat16 and float8 (e4m3, with one scale per row) to float32 and back, in numpy.

Rounding is to the nearest, ties to even, so a bfloat16 model's numbers survive unchanged and numpy agrees with torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

E4M3_MAX = 448.0
"""The largest float8 e4m3 value."""


def to_bf16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper sixteen bits of every float32, rounded. NaN stays NaN."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(array)
    return np.where(nan, np.uint16(0x7FC0), rounded) if nan.any() else rounded


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exactly the values that the bits stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_f8(array: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """[T, D] float32 as float8 codes and a scale per row: row = from_f8(codes, scale) within 1/16 of its size."""
    largest = np.abs(array).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest / np.float32(E4M3_MAX), 1.0).astype(np.float32)
    sizes = np.minimum(np.abs(array) / scale[:, None], np.float32(E4M3_MAX))
    levels = _e4m3()[:127]
    above = np.clip(np.searchsorted(levels, sizes), 1, len(levels) - 1)
    low, high = levels[above - 1], levels[above]
    up = (sizes - low > high - sizes) | ((sizes - low == high - sizes) & (above % 2 == 0))
    codes = np.where(up, above, above - 1).astype(np.uint8)
    return codes | (np.signbit(array).astype(np.uint8) << np.uint8(7)), scale


def from_f8(codes: NDArray[np.uint8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """[T, D] codes and [T] scales to float32; infinite where a scale is too large for its codes."""
    with np.errstate(over="ignore", invalid="ignore"):  # scales are somebody's answer: whoever reads it judges it
        return _e4m3()[codes] * scale[:, None]


def _e4m3() -> NDArray[np.float32]:
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, (codes & 7).astype(np.float32)
    sizes = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    sizes[(codes & 127) == 127] = np.nan
    return np.where(codes >= 128, -sizes, sizes).astype(np.float32)
