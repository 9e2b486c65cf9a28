"""Which support a teacher is asked for: what a recipe needs, met with what a teacher's card offers.

The API asks when a run is submitted, the learner when it scores: one answer, so that nothing is accepted that could not
be done. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from preceptor.wire.teachers import Card, Support

if TYPE_CHECKING:
    from preceptor_trainer.recipe import Recipe

MOST_IDS = 64
"""Ids per token where a recipe leaves the number open. They travel as 520 bytes; what they leave out is measured every
step (`tail`)."""


class Sparse(BaseModel):
    """Which ids a score names where it does not cover the whole vocabulary."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    k: int | None = Field(default=None, ge=1, le=65_536)
    """Ids per token. None: 64, or as many as the teacher gives where that is fewer."""
    by: Literal["teacher", "student"] = "teacher"
    """Who names them: the teacher its likeliest (`topk`), or the student its own (`ids`)."""
    always: bool = False
    """False: only where a teacher cannot give whole distributions."""


_SIZES = {Support.SAMPLED: 0, Support.IDS: 1, Support.TOPK: 1, Support.FULL: 2}


def largest(supports: Sequence[Support]) -> Support:
    """The one that gives what all of them do."""
    return max(supports, key=lambda each: _SIZES[each], default=Support.SAMPLED)


class Wanted(NamedTuple):
    """What to ask a teacher for."""

    support: Support
    k: int = 0
    """Ids per token; 0 where the support names none."""


class NoSupport(ValueError):
    """A teacher cannot say what a recipe needs to know."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}. {remedy}")
        self.why = why
        self.remedy = remedy


def choose_support(recipe: Recipe, name: str, card: Card, need: Support, vocab_size: int) -> Wanted:
    """The cheapest support of a teacher that gives what is needed; exact where it can be, sparse where it must.

    name: what the teacher is called in the refusal.
    need: the least support that will do (`Recipe.needs`).
    vocab_size: the student's.
    Raises NoSupport, with what would do.
    """
    if need is Support.SAMPLED:
        if need in card.supports:
            return Wanted(need)
        raise _refusal(name, card, "sampled", "Choose another teacher.")
    lacking = _lacks_whole(name, card, vocab_size)
    if lacking is None and (need is Support.FULL or not recipe.sparse.always):
        return Wanted(Support.FULL)
    if lacking is not None and need is Support.FULL:
        raise NoSupport(lacking, "Choose another teacher, or an objective that takes a sparse support (topk, ids).")
    support = Support.TOPK if recipe.sparse.by == "teacher" else Support.IDS
    # A teacher that takes the student's ids only can still be asked for what it finds likely there.
    support = Support.IDS if support not in card.supports else support
    if support not in card.supports or card.limits.max_k < 1:
        if lacking is not None and Support.FULL in card.supports:
            raise NoSupport(lacking, "Choose a teacher with as many, or one that offers topk or ids.")
        wish = "topk or ids" if recipe.sparse.by == "teacher" else "ids"
        wish = wish if recipe.sparse.always else f"full, {wish}" if "or" in wish else f"full or {wish}"
        raise _refusal(
            name,
            card,
            wish,
            "Choose a teacher that offers one of them, or a recipe that needs no more than sampled tokens (opd).",
        )
    wanted = Wanted(support, recipe.sparse.k or min(MOST_IDS, card.limits.max_k))
    check_serves(wanted, name, card, vocab_size)
    return wanted


def check_serves(wanted: Wanted, name: str, card: Card, vocab_size: int) -> None:
    """Raises NoSupport where a teacher does not give just this."""
    if wanted.support not in card.supports:
        raise _refusal(name, card, wanted.support.value, "Choose another teacher.")
    if wanted.support is Support.FULL and (lacking := _lacks_whole(name, card, vocab_size)) is not None:
        raise NoSupport(lacking, "Choose a teacher with as many.")
    if wanted.k > card.limits.max_k:
        raise NoSupport(
            f"the recipe asks for {wanted.k} ids per token, and teacher {name} gives {card.limits.max_k}",
            f'Override it: {{"sparse": {{"k": {card.limits.max_k}}}}}, or raise the teacher\'s limit.',
        )


def _lacks_whole(name: str, card: Card, vocab_size: int) -> str | None:
    """Why a teacher's hidden states are of no use here; None: they are."""
    if Support.FULL not in card.supports:
        return _refusal(name, card, "full", "").why
    if card.tokenizer.vocab_size != vocab_size:
        return f"teacher {name} has {card.tokenizer.vocab_size} outputs and the student {vocab_size}"
    return None


def _refusal(name: str, card: Card, needed: str, remedy: str) -> NoSupport:
    offered = ", ".join(card.supports) or "none"
    return NoSupport(f"the recipe needs the support {needed}, and teacher {name} offers {offered}", remedy)
