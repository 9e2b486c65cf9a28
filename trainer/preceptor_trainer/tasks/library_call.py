"""A small program against a library that nobody has documented: it is run, and what goes wrong says how it is called.

The student writes a call (`vub(tok(7))`); which function does what, only the library knows. A program that fails comes
back with its error and the library's own remarks on what the question asks for, as the verifier's feedback: rich
feedback, without which the names cannot be found, and with which they can be learned.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

from pydantic import Field

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.tasks._procedural import ProceduralTask, question_id, shown
from preceptor_trainer.verifiers import Program
from preceptor_trainer.views import Message, Task

DOES: dict[str, tuple[str, Callable[[int], int]]] = {
    "double": ("2 * x", lambda x: 2 * x),
    "negate": ("-x", lambda x: -x),
    "increase": ("x + 1", lambda x: x + 1),
    "halve": ("x // 2", lambda x: x // 2),
    "square": ("x * x", lambda x: x * x),
}
"""What a library's functions do: as people say it, as the program that is run does, and here."""
VOWELS, CONSONANTS = "aeiou", "bdfgklmnprstvz"


class LibraryCall(ProceduralTask):
    """`Write a call of the library: take 7, double it, negate it.` -> `kep(vub(7))`."""

    name: ClassVar[str] = "library_call"
    verifier: ClassVar[Verifier] = Program()
    columns: ClassVar[frozenset[str]] = ProceduralTask.columns | {"library", "asks", "skill", "mistake"}
    answer_tokens: ClassVar[int] = 20
    bank: int = Field(0, ge=0, lt=2**60)
    """Which names the functions have. Another number is another library: what was learned of one is worth nothing."""
    steps: int = Field(2, ge=1, le=3)
    """Most functions a program needs."""
    largest: int = Field(999, ge=99, le=9999)
    """Largest number that one begins with."""

    def names(self) -> dict[str, str]:
        """What each function is called, by what it does."""
        rng = Random(f"library/{self.bank}")
        names: dict[str, str] = {}
        while len(names) < len(DOES):
            name = rng.choice(CONSONANTS) + rng.choice(VOWELS) + rng.choice(CONSONANTS)
            if name not in names.values():
                names[list(DOES)[len(names)]] = name
        return names

    def draw(self, rng: Random) -> Task:
        names = self.names()
        does = rng.sample(list(DOES), rng.randint(1, self.steps))
        number = rng.randint(2, self.largest)
        question = f"Write a call of the library: take {number}, " + ", ".join(f"{each} it" for each in does) + "."
        program, value = str(number), number
        for each in does:
            program = f"{names[each]}({program})"
            value = DOES[each][1](value)
        remarks = "\n".join(f"to {each}: {names[each]}" for each in dict.fromkeys(does))
        return Task(
            id=question_id(question),
            messages=(Message(role="user", content=question),),
            answer=str(value),
            reference=program,
            columns={
                **shown(program, program),
                "library": {names[each]: {"is": DOES[each][0], "does": each} for each in DOES},
                "asks": does,
                "skill": remarks,
                "mistake": "using names that the library does not have",
            },
        )


TASK = LibraryCall
