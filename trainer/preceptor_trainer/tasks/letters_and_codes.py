"""Two domains that are both learned in a minute: letters (`spell_backward`) and codes (`skill_code`).

As `two_domains`, for an example or a test that has to train its specialists first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from preceptor_trainer.tasks._domains import Domains
from preceptor_trainer.tasks._procedural import ProceduralTask
from preceptor_trainer.tasks.skill_code import SkillCode
from preceptor_trainer.tasks.spell_backward import SpellBackward


class LettersAndCodes(Domains):
    """A word to be spelled backward, or to be written in a secret code; `domain` is `letters` or `codes`. Judged
    letter by letter."""

    name: ClassVar[str] = "letters_and_codes"
    columns: ClassVar[frozenset[str]] = ProceduralTask.columns | {"domain"}
    values: ClassVar[Mapping[str, tuple[str, ...]]] = {"domain": ("letters", "codes")}
    answer_tokens: ClassVar[int] = SpellBackward.answer_tokens
    letters: SpellBackward = SpellBackward.model_validate({})
    """Which words."""
    codes: SkillCode = SkillCode.model_validate({})
    """Which codes."""

    def parts(self) -> tuple[tuple[str, ProceduralTask], tuple[str, ProceduralTask]]:
        return ("letters", self.letters), ("codes", self.codes)


TASK = LettersAndCodes
