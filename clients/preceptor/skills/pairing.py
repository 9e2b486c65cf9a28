"""Which skills of a bank a teacher is shown for a question, each next to a mistake to avoid (SGSD, arXiv:2605.28791).

A skill that came with its mistake is shown with it. One that came without is paired by rank: the first such skill with
the mistake that fits the question best among those that came without a skill, and so on; with none once they are used
up. So a bank of two separate lists is paired as in the paper, and a bank of pairs is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preceptor.skills.embedding import Embedder
from preceptor.skills.index import Hit, Index
from preceptor.wire.skills import Skill


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What one teacher is shown."""

    skill: Skill
    mistake: Skill | None
    """Whose `mistake` is shown: the same one, another, or nobody's."""
    score: float
    """How well the two fit the question: the mean of their cosines. A teacher's share is the softmax over its pairs."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The skills that are shown."""
        return tuple(dict.fromkeys(each.number for each in (self.skill, self.mistake) if each is not None))


class Pairs:
    """A version of a bank, to be asked about questions. Immutable, so that threads may share it."""

    def __init__(self, skills: Sequence[Skill], embedder: Embedder) -> None:
        self._skills = [each for each in skills if each.skill.strip()]
        self._mistakes = [each for each in skills if not each.skill.strip()]
        self._told = Index([f"{each.skill} {each.mistake} {' '.join(each.tags)}" for each in self._skills], embedder)
        self._avoided = Index([f"{each.mistake} {' '.join(each.tags)}" for each in self._mistakes], embedder)

    def of(self, question: str, most: int) -> list[Pair]:
        """The best `most` pairs, best first; fewer where the bank has fewer skills."""
        told = self._told.search(question, most)
        alone = sum(1 for hit in told if not self._skills[hit.place].mistake.strip())
        avoided = iter(self._avoided.search(question, alone))
        return [self._pair(hit, avoided) for hit in told]

    def _pair(self, hit: Hit, avoided: Iterator[Hit]) -> Pair:
        skill = self._skills[hit.place]
        if skill.mistake.strip():
            return Pair(skill=skill, mistake=skill, score=hit.similarity)
        other = next(avoided, None)
        if other is None:
            return Pair(skill=skill, mistake=None, score=hit.similarity)
        score = (hit.similarity + other.similarity) / 2
        return Pair(skill=skill, mistake=self._mistakes[other.place], score=score)
