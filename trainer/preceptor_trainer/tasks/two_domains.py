"""Two domains in one stream, for students of several specialists: letters (`spell_backward`) and maths (`chain_sum`).

The `domain` column says which a question is of. Two specialists can each do one; a student of both can do both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.tasks._domains import Domains
from preceptor_trainer.tasks._procedural import ProceduralTask
from preceptor_trainer.tasks.chain_sum import ChainSum
from preceptor_trainer.tasks.spell_backward import SpellBackward
from preceptor_trainer.verifiers import Procedural


class TwoDomains(Domains):
    """A word to be spelled backward, or a sum; `domain` is `letters` or `maths`."""

    name: ClassVar[str] = "two_domains"
    verifier: ClassVar[Verifier] = Procedural()
    columns: ClassVar[frozenset[str]] = ProceduralTask.columns | {"metadata", "domain"}
    values: ClassVar[Mapping[str, tuple[str, ...]]] = {"domain": ("letters", "maths")}
    answer_tokens: ClassVar[int] = ChainSum.answer_tokens
    letters: SpellBackward = SpellBackward.model_validate({})
    """Which words."""
    maths: ChainSum = ChainSum.model_validate({})
    """Which sums."""

    def parts(self) -> tuple[tuple[str, ProceduralTask], tuple[str, ProceduralTask]]:
        return ("letters", self.letters), ("maths", self.maths)


TASK = TwoDomains
