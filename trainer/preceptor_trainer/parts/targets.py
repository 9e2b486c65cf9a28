"""How teachers' opinions become the distribution the student is drawn to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.recipe import Target
from preceptor_trainer.views import BlockView, Opinion, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Single(Target, kind="single"):
    """One context's opinion, as it is."""

    context: str = Field(min_length=1)
    """The context's name in the recipe."""

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.context,)

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        return (block[self.context],)


class Each(Target, kind="each"):
    """Every opinion of the named contexts on its own: the objective is summed over them, each with its prompt's weight.

    This is a weighted sum of divergences, not a divergence from a mixture.
    """

    contexts: tuple[str, ...] = Field(min_length=1)
    """The contexts' names in the recipe."""

    @property
    def uses(self) -> tuple[str, ...]:
        return self.contexts

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        return tuple(opinion for name in self.contexts for opinion in block.contexts[name])

    def outline(self, view: TokenView) -> Sequence[tuple[Tensor, Tensor]]:
        return tuple((each.present_T, each.weight_T) for name in self.contexts for each in view.contexts[name])
