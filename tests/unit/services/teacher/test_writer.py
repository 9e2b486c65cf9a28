"""Text that grows: pieces add up to the text, stop texts are never part of it, half a character is never sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_services.teacher.backends import Draw, Token
from preceptor_services.teacher.openai import ChatMessage
from preceptor_services.teacher.writer import Piece, write

END = 256


class Bytes:
    """One token a byte, as byte-level tokenizers have them; what it writes was decided beforehand."""

    ends = frozenset({END})

    def __init__(self, script: Sequence[int]) -> None:
        self._script = script

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        return [1]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(each for each in ids if each < END).decode(errors="replace")

    def write(self, prompt: Sequence[int], draw: Draw) -> Iterator[Token]:
        for token in self._script[: draw.max_tokens]:
            yield Token(id=token, logprob=-1.0)
            if token == END:
                return


def written(text: str, *, end: bool = True, stop: Sequence[str] = (), most: int = 1000) -> list[Piece]:
    script = [*text.encode(), *([END] if end else [])]
    return list(write(Bytes(script), [1], Draw(max_tokens=most), stop, lambda: None))


texts = st.text("abüñ→", max_size=20)


@given(texts, st.lists(st.text("abü", min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_up_to_the_first_stop(text: str, stop: list[str]) -> None:
    pieces = written(text, stop=stop)
    ends = [at for at in (text.find(each) for each in stop) if at >= 0]
    said = "".join(piece.text for piece in pieces)
    assert not any(each in said for each in stop)
    assert said == text[: len(said)]
    # Of stop texts that end at the same character the earliest beginning wins; none that was complete is passed over.
    assert len(said) == len(text) if not ends else len(said) >= min(ends)
    assert pieces[-1].finish == "stop" and all(piece.finish is None for piece in pieces[:-1])
    assert all("�" not in piece.text for piece in pieces)


@given(texts.filter(bool))
def test_every_token_is_in_one_piece(text: str) -> None:
    pieces = written(text)
    assert [token.id for piece in pieces for token in piece.tokens] == [*text.encode(), END]


def test_the_limit_is_a_reason() -> None:
    pieces = written("abc", most=2)
    assert "".join(piece.text for piece in pieces) == "ab" and pieces[-1].finish == "length"


def test_what_was_held_back_comes_when_it_was_no_stop() -> None:
    assert "".join(piece.text for piece in written("say stob", stop=["stop"])) == "say stob"


def test_the_caller_can_end_it_at_any_token() -> None:
    def between() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(write(Bytes([65]), [1], Draw(max_tokens=1), (), between))
