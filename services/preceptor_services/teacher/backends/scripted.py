"""A text teacher of rules instead of weights: for tasks at hand whose text no small model could write.

It answers behind the same port as any other (`/v1/chat/completions`), scores nothing, and is registered like a chat
endpoint's teacher. What it knows is in `scripts.py`. Its tokens are the bytes of UTF-8; the same prompt always gets the
same text, whatever the temperature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, cast

from preceptor.errors import Invalid
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import TokenizerCard
from preceptor_services.teacher import scripts
from preceptor_services.teacher.backends import About, Draw, NewWeights, Text, Token
from preceptor_services.teacher.openai import ChatMessage

END = 256
"""The id after the last byte of a text."""
MAX_BYTES = 1 << 20
NAME = "scripted"
"""What it is called where a model's folder would be named."""


class ScriptedText:
    """Prompts and replies as bytes."""

    ends = frozenset({END})

    def encode(self, text: str) -> list[int]:
        """Its bytes."""
        return list(text.encode())

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The last message of the user, who says all that the rules look at. Raises Invalid where there is none."""
        asked = [message.content for message in messages if message.role == "user"]
        if not asked:
            raise Invalid("messages: there is none of the user's; a scripted teacher reads the last.", field="messages")
        return self.encode(json.dumps({"asked": asked[-1]}))

    def decode(self, ids: Sequence[int]) -> str:
        """Their text."""
        return bytes(each for each in ids if each < END).decode("utf-8", "replace")

    def write(self, prompt: Sequence[int], draw: Draw) -> Iterator[Token]:
        """A byte at a time; of a prompt that came without messages, all of it is what was asked."""
        text = self.decode(prompt)
        try:
            asked: Any = json.loads(text)
        except ValueError:
            asked = None
        held = cast("dict[str, Any]", asked) if isinstance(asked, dict) else {}
        written = scripts.reply(str(held.get("asked", text)))
        for each in [*self.encode(written), END][: draw.max_tokens]:
            yield Token(id=each, logprob=0.0)  # there was nothing else that it could have written


class ScriptedBackend:
    """Writes by rule."""

    def __init__(self) -> None:
        self.text: Text | None = ScriptedText()
        self.about = About(
            model=NAME,
            engine="scripted 1",
            device="cpu",
            dtype="none",
            tokenizer=TokenizerCard(fingerprint=None, vocab_size=END + 1),
            max_tokens=MAX_BYTES,
            supports=(),
            head=None,
            max_k=0,
        )

    def head(self) -> None:
        """None: there are no weights."""
        return None

    def layout(self) -> None:
        """None: there are no weights."""
        return None

    def prepare(self, weights: NewWeights) -> Callable[[], None]:
        """Never called, since there is no layout."""
        raise Invalid("weights: a scripted teacher has none.", field="weights")

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> NoReturn:
        """Raises Invalid."""
        raise Invalid("support: a scripted teacher writes, and scores nothing.", field="support")
