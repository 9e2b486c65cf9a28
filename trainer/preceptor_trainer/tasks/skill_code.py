"""Writing a word in a secret code, whose meaning only a skill's text tells: nothing in the question gives it away.

There are five codes. A code writes each of the letters a, b, c and d as some other letter; which, the option `bank`
says. So a student cannot reason its way to the answer: it is told (the `skill` column), or it has learned the codes.
"""

from __future__ import annotations

from random import Random
from string import ascii_lowercase
from typing import ClassVar, Self

from pydantic import Field, model_validator

from preceptor_trainer.tasks._procedural import ProceduralTask, question_id, shown
from preceptor_trainer.views import Message, Task

CODES = "KLMNP"
PLAIN = "abcd"
CIPHERS = ascii_lowercase[len(PLAIN) :]


class SkillCode(ProceduralTask):
    """`Write this word in code K: badca` -> `qmtzm`, by a skill that has a line for each letter: `a: m`, `b: q`."""

    name: ClassVar[str] = "skill_code"
    columns: ClassVar[frozenset[str]] = ProceduralTask.columns | {"skill", "mistake"}
    answer_tokens: ClassVar[int] = 12
    bank: int = Field(0, ge=0, lt=2**60)
    """Which meanings the codes have. Another number is another secret: what was learned of one is worth nothing."""
    min_word_len: int = Field(5, ge=1, le=8)
    """Shortest word, in letters."""
    max_word_len: int = Field(5, ge=1, le=8)
    """Longest word, in letters."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_word_len > self.max_word_len:
            raise ValueError(f"min_word_len ({self.min_word_len}) is above max_word_len ({self.max_word_len})")
        return self

    def meaning(self, code: str) -> str:
        """What a code makes of a, b, c and d, in this order: four letters, all different, none of these."""
        return "".join(Random(f"{self.bank}/{code}").sample(CIPHERS, len(PLAIN)))

    def draw(self, rng: Random) -> Task:
        code = rng.choice(CODES)
        word = "".join(rng.choices(PLAIN, k=rng.randint(self.min_word_len, self.max_word_len)))
        meaning = self.meaning(code)
        answer = word.translate(str.maketrans(PLAIN, meaning))
        question = f"Write this word in code {code}: {word}"
        return Task(
            id=question_id(question),
            messages=(Message(role="user", content=question),),
            answer=answer,
            reference=answer,
            columns={
                **shown(answer, answer),
                "skill": "\n".join(f"{letter}: {other}" for letter, other in zip(PLAIN, meaning, strict=True)),
                "mistake": f"Leaving the word as it is: {word}",
            },
        )


TASK = SkillCode
