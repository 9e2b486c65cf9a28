"""From a prompt to a text that grows: decoding, stop texts, why it ended. Blocks; runs on the scheduler's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from preceptor_services.teacher.backends import Draw, Text, Token

Finish = Literal["stop", "length"]
_UNFINISHED = "�"
"""What a tokenizer decodes half of a character to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What was added to a text."""

    text: str
    tokens: tuple[Token, ...]
    finish: Finish | None = None
    """Why the text ends here; None: it goes on."""


def write(
    text: Text, prompt: Sequence[int], draw: Draw, stop: Sequence[str], between: Callable[[], object]
) -> Iterator[Piece]:
    """Pieces of one text; the last one says why it ended.

    Text that may turn out to be the beginning of a stop text, or of a character, is held back until that is known.
    """
    ids: list[int] = []
    held: list[Token] = []
    sent = ""
    for token in text.write(prompt, draw):
        between()
        held.append(token)
        if token.id in text.ends:
            yield Piece(text=text.decode(ids)[len(sent) :], tokens=tuple(held), finish="stop")
            return
        ids.append(token.id)
        whole = text.decode(ids)
        found = [at for at in (whole.find(each, max(0, len(sent) - len(each))) for each in stop) if at >= 0]
        if found:
            yield Piece(text=whole[len(sent) : max(min(found), len(sent))], tokens=tuple(held), finish="stop")
            return
        safe = len(whole) - _held_back(whole, stop)
        if safe > len(sent):
            yield Piece(text=whole[len(sent) : safe], tokens=tuple(held))
            sent, held = whole[:safe], []
    yield Piece(text=text.decode(ids)[len(sent) :], tokens=tuple(held), finish="length")


def _held_back(whole: str, stop: Sequence[str]) -> int:
    """Length of the end of `whole` that cannot be sent yet."""
    longest = 1 if whole.endswith(_UNFINISHED) else 0
    for each in stop:
        for length in range(min(len(each) - 1, len(whole)), longest, -1):
            if whole.endswith(each[:length]):
                longest = length
                break
    return longest
