"""Weights on the wire: what `POST /v1/weights` takes, and what it answers."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from preceptor.wire.common import Wire
from preceptor.wire.teachers import Hash


class WeightsKind(StrEnum):
    """What a body of `POST /v1/weights` holds."""

    FULL = "full"
    """Every tensor of the model, under the names of its own files."""
    LORA = "lora"
    """A LoRA adapter as peft writes it, for the last full weights."""


class WeightsArrived(Wire):
    """How far a body of `POST /v1/weights` has come that was broken off."""

    sha256: str
    """Of the whole body."""
    offset: int = Field(ge=0)
    """Bytes that are there."""
    busy: bool = False
    """Whether a version is being loaded just now, this one or another: a body would be refused."""


class WeightsLoaded(Wire):
    """The version that is live from now on."""

    weights_version: int = Field(ge=1)
    weights_hash: Hash
    head_hash: Hash | None
    """Of the head that belongs to it; None: the teacher gives none."""
    changed: int
    """Tensors that may differ from the version before."""
    received_bytes: int
    """With the request that was the last of it."""
    seconds: float
    """From the last byte until it was live; what was waited for between two requests included."""
