"""Teachers on the wire."""

from __future__ import annotations

from enum import StrEnum


class Support(StrEnum):
    """The set of next tokens that a score covers."""

    SAMPLED = "sampled"
    IDS = "ids"
    TOPK = "topk"
    FULL = "full"
