"""Weights to be sent to a teacher: a model's folder, an adapter's, a file, or arrays; as one safetensors body."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from preceptor.errors import Invalid
from preceptor.tensorfiles import Held, Source, adapted_hash, file_pieces, open_file, open_folder, weights_hash
from preceptor.tensors import BadFrame, Tensor
from preceptor.wire.weights import WeightsKind

Weights = Path | Mapping[str, Any]
"""Where weights are, or the arrays themselves: what numpy makes float32 or float16 of, or `Tensor("BF16", bits)`."""
_DTYPES = {"float32": "F32", "float16": "F16"}
_UNSENT = {
    "use_dora": "it is a DoRA adapter",
    "rank_pattern": "its ranks differ between layers",
    "alpha_pattern": "its scales differ between layers",
    "modules_to_save": "it holds whole layers too",
    "fan_in_fan_out": "its layers keep their weights transposed",
    "layer_replication": "it repeats layers",
}
"""What an adapter's config may say that a plain product with one scale does not."""


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent. Its bytes can be read more than once."""

    kind: WeightsKind
    tensors: Mapping[str, Source]
    scale: float | None = None
    """For an adapter: what B @ A is multiplied with."""
    base: str | None = None
    """For an adapter: the hash of the full weights that it is for; None: the teacher's last ones, whichever."""

    @property
    def size(self) -> int:
        """Bytes."""
        return file_pieces(self.tensors)[0]

    def pieces(self) -> Iterator[bytes]:
        """One safetensors file, however many it was read from."""
        return (bytes(piece) for piece in file_pieces(self.tensors)[1])

    def sha256(self) -> str:
        """Of these bytes, in hex."""
        digest = hashlib.sha256()
        for piece in file_pieces(self.tensors)[1]:
            digest.update(piece)
        return digest.hexdigest()

    def pieces_from(self, offset: int) -> Iterator[bytes]:
        """The bytes behind the first `offset`."""
        for piece in self.pieces():
            if offset < len(piece):
                yield piece[offset:]
            offset = max(0, offset - len(piece))

    def hash(self) -> str | None:
        """What the teacher's card will say of its weights; None for an adapter of which no base is stated."""
        own = weights_hash(self.tensors)
        if self.kind is WeightsKind.FULL:
            return own
        return None if self.base is None or self.scale is None else adapted_hash(self.base, own, self.scale)

    def query(self, version: int | None, sha256: str | None = None) -> str:
        """The query of `POST /v1/weights`."""
        said = {
            "kind": self.kind.value,
            "version": version,
            "scale": self.scale,
            "base": self.base,
            "sha256": sha256,
        }
        return urlencode({name: value for name, value in said.items() if value is not None})


def body_of(weights: Weights, kind: WeightsKind | None = None, scale: float | None = None) -> Body:
    """What to send. A folder says its kind and scale itself: one with adapter_config.json is an adapter.

    Raises Invalid where there are no weights, or an adapter that is more than plain LoRA.
    """
    if isinstance(weights, Path):
        return _from_path(weights, kind, scale)
    return Body(kind or WeightsKind.FULL, {name: Held(_tensor(name, each)) for name, each in weights.items()}, scale)


def _from_path(path: Path, kind: WeightsKind | None, scale: float | None) -> Body:
    if path.is_file():
        return Body(kind or WeightsKind.FULL, _opened(path), scale)
    if not path.is_dir():
        raise Invalid(f"weights: there is no {path}.", field="weights")
    config = path / "adapter_config.json"
    found = WeightsKind.LORA if config.is_file() else WeightsKind.FULL
    if kind not in (None, found):
        raise Invalid(f"kind: {path} holds {found.value} weights, not {kind}.", field="kind")
    if found is WeightsKind.FULL:
        return Body(found, open_folder(path), scale)
    return Body(found, _opened(path / "adapter_model.safetensors"), _scale(config) if scale is None else scale)


def _opened(path: Path) -> Mapping[str, Source]:
    try:
        return open_file(path)
    except (OSError, BadFrame) as error:
        raise Invalid(f"weights: {path} cannot be read ({error}).", field="weights") from error


def _scale(path: Path) -> float:
    try:
        config = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        strange = next((why for name, why in _UNSENT.items() if config.get(name)), None)
        if config.get("bias", "none") != "none":
            strange = "it trains biases"
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise Invalid(f"weights: {path} is no config of a LoRA adapter ({error}).", field="weights") from error
    if strange is not None:
        raise Invalid(
            f"weights: {path.parent} is no plain LoRA: {strange}.",
            field="weights",
            remedy="Merge it into its base model with peft, and send full weights.",
        )
    return scale


def _tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given
    array: NDArray[Any] = np.asarray(given)
    dtype = _DTYPES.get(array.dtype.name)
    if dtype is None:
        raise Invalid(
            f"weights: '{name}' is {array.dtype}; arrays are float32 or float16, bfloat16 is a Tensor.", field="weights"
        )
    return Tensor(dtype, array)
