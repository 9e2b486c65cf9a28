"""Coefficients of a composed target that differ from token to token; those that move with the step are schedules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from preceptor_trainer.recipe import Part
from preceptor_trainer.views import Opinion, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class PerToken(Part):
    """What the log-linear composer multiplies one opinion with, by what the composed opinions say."""

    @abstractmethod
    def __call__(self, opinions: Mapping[str, Opinion], tokens: TokenView) -> Tensor:
        """[T]. `opinions` are those being composed, by name, on one support; nothing here carries gradient."""
