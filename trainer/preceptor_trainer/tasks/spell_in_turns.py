"""A question in pieces, over several turns: `spell_backward`, its word told bit by bit.

What is known of models that answer single prompts well: given the same in shards they get lost. The `canonical` column
is the question as one prompt, `shards` what the user says turn by turn. The plain prompt is the conversation with a
reply between the shards that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import ClassVar

from pydantic import Field

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.tasks._procedural import ProceduralTask
from preceptor_trainer.tasks.spell_backward import SpellBackward
from preceptor_trainer.verifiers import Procedural
from preceptor_trainer.views import Message, Task

BETWEEN = "Go on."


class SpellInTurns(ProceduralTask):
    """`The word begins with: pla`, `It goes on with: net`, `Now spell the whole word backward.` -> `tenalp`."""

    name: ClassVar[str] = "spell_in_turns"
    verifier: ClassVar[Verifier] = Procedural()
    columns: ClassVar[frozenset[str]] = ProceduralTask.columns | {"metadata", "canonical", "shards"}
    answer_tokens: ClassVar[int] = 16
    word: SpellBackward = SpellBackward.model_validate({})
    """Which words."""
    pieces: int = Field(2, ge=2, le=3)
    """Into how many pieces a word is cut."""

    def draw(self, rng: Random) -> Task:
        return self._in_turns(self.word.draw(rng))

    def stream(self, name: str) -> Iterator[Task]:
        return map(self._in_turns, self.word.stream(name))

    def _in_turns(self, whole: Task) -> Task:
        question = whole.messages[-1]["content"]
        shards = self._shards(question.rpartition(" ")[2])
        said = [each for shard in shards for each in (_user(shard), Message(role="assistant", content=BETWEEN))]
        return Task(
            id=whole.id,
            messages=tuple(said[:-1]),
            answer=whole.answer,
            reference=whole.reference,
            columns={**whole.columns, "canonical": question, "shards": shards},
        )

    def _shards(self, word: str) -> list[str]:
        cuts = [round(len(word) * number / self.pieces) for number in range(self.pieces + 1)]
        first, *others = (word[begin:end] for begin, end in pairwise(cuts))
        return [
            f"The word begins with: {first}",
            *(f"It goes on with: {each}" for each in others),
            "Now spell the whole word backward.",
        ]


def _user(text: str) -> Message:
    return Message(role="user", content=text)


TASK = SpellInTurns
