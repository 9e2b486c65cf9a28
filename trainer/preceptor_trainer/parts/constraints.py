"""Which weights may move. What is held is the update; the gradient, its norm and the moments are whole."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from preceptor_trainer.recipe import Constraint

if TYPE_CHECKING:
    from torch import Tensor


class Named(Constraint, kind="named"):
    """Whole parameters, by name."""

    names: tuple[str, ...] = Field(min_length=1)
    """Patterns of the names of those that may move: `*.mlp.*`, `model.layers.1?.*`."""

    def trains(self, parameter: str) -> bool:
        return any(fnmatchcase(parameter, pattern) for pattern in self.names)


class Sparse(Constraint, kind="sparse"):
    """A fixed share of the elements of every parameter, chosen once, of the weights that the run begins with."""

    share: float = Field(default=0.1, gt=0, lt=1)
    """How much of each parameter may move; at least one element."""
    choose: Literal["largest", "smallest", "random"] = "largest"
    """Which: by magnitude, or drawn at random."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw."""

    def trains(self, parameter: str) -> bool:
        return True

    def mask(self, parameter: str, weight: Tensor) -> Tensor:
        if self.choose == "random":
            digest = hashlib.blake2b(f"{self.seed}/{parameter}".encode(), digest_size=8).digest()
            drawn = np.random.default_rng(int.from_bytes(digest, "big")).random(weight.numel(), dtype=np.float32)
            rank = weight.new_tensor(drawn)
        else:
            rank = weight.abs().flatten()
        count = max(1, round(self.share * weight.numel()))
        chosen = rank.topk(count, largest=self.choose != "smallest").indices
        return rank.new_zeros(len(rank)).bool().index_fill(0, chosen, True).view_as(weight)
