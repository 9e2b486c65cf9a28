"""Spelling an English word backward, letter by letter: reasoning-gym's `spell_backward`, 4 to 8 letters unless told.

Easy to check, and hard for a small model without help, since the last letter must be written first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from preceptor_trainer.tasks._gym import GymTask


class SpellBackward(GymTask):
    """`Spell this word backward (example: sun -> nus): planet` -> `tenalp`. The scorer ignores case."""

    name: ClassVar[str] = "spell_backward"
    answer_tokens: ClassVar[int] = 16
    min_word_len: int = Field(4, ge=3, le=10)
    """Shortest word, in letters."""
    max_word_len: int = Field(8, ge=3, le=10)
    """Longest word, in letters."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_word_len > self.max_word_len:
            raise ValueError(f"min_word_len ({self.min_word_len}) is above max_word_len ({self.max_word_len})")
        return self

    def reference(self, entry: Mapping[str, Any]) -> str:
        return entry["answer"]


TASK = SpellBackward
