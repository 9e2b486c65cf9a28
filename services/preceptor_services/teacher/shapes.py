"""How written pieces look in OpenAI's answers: whole and streamed, chat and plain."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from preceptor_services.teacher.backends import Text, Token
from preceptor_services.teacher.openai import Usage
from preceptor_services.teacher.writer import Piece


class Shape(Protocol):
    """One answer's form."""

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> dict[str, Any]:
        """The answer at once."""
        ...

    def part(self, index: int, piece: Piece) -> dict[str, Any]:
        """The event for one piece."""
        ...

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The event that carries the usage."""
        ...


class _Common:
    def __init__(self, model: str, text: Text, prefix: str, kind: str, part_kind: str) -> None:
        self._text = text
        self._base = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._kind, self._part_kind = kind, part_kind

    def _answer(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {**self._base, "object": self._kind, "choices": choices, "usage": usage.model_dump()}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._base, "object": self._part_kind, "choices": choices}

    def closing(self, usage: Usage) -> dict[str, Any]:
        return {**self._event([]), "usage": usage.model_dump()}


class CompletionShape(_Common):
    """`/v1/completions`."""

    def __init__(self, model: str, text: Text, logprobs: int | None) -> None:
        super().__init__(model, text, "cmpl", "text_completion", "text_completion")
        self._logprobs = logprobs

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> dict[str, Any]:
        """The answer at once."""
        return self._answer([self._choice(index, pieces) for index, pieces in enumerate(choices)], usage)

    def part(self, index: int, piece: Piece) -> dict[str, Any]:
        """The event for one piece."""
        return self._event([self._choice(index, [piece])])

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "finish_reason": pieces[-1].finish,
            "logprobs": self._said([token for piece in pieces for token in piece.tokens]),
        }

    def _said(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        decode = self._text.decode
        texts = [decode([token.id]) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{decode([id]): logprob for id, logprob in token.top} for token in tokens],
            "text_offset": [sum(map(len, texts[:index])) for index in range(len(texts))],
        }


class ChatShape(_Common):
    """`/v1/chat/completions`."""

    def __init__(self, model: str, text: Text, logprobs: bool) -> None:
        super().__init__(model, text, "chatcmpl", "chat.completion", "chat.completion.chunk")
        self._logprobs = logprobs

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> dict[str, Any]:
        """The answer at once."""
        return self._answer([self._choice(index, pieces) for index, pieces in enumerate(choices)], usage)

    def part(self, index: int, piece: Piece) -> dict[str, Any]:
        """The event for one piece."""
        delta = {"role": "assistant", "content": piece.text}
        said = self._said(piece.tokens)
        return self._event([{"index": index, "delta": delta, "finish_reason": piece.finish, "logprobs": said}])

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        said = self._said([token for piece in pieces for token in piece.tokens])
        return {"index": index, "message": message, "finish_reason": pieces[-1].finish, "logprobs": said}

    def _said(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: Token) -> dict[str, Any]:
        top = [self._likely(id, logprob) for id, logprob in token.top]
        return {**self._likely(token.id, token.logprob), "top_logprobs": top}

    def _likely(self, id: int, logprob: float) -> dict[str, Any]:
        text = self._text.decode([id])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
