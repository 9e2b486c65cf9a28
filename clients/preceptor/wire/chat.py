"""Text on the wire: what is used of OpenAI's `POST /v1/chat/completions`."""

from __future__ import annotations

import re
from typing import Any, cast

from pydantic import Field

from preceptor.errors import Corrupt
from preceptor.wire.common import Wire

WROTE = "weights-"
"""What the `system_fingerprint` of our teachers begins with; their weights version follows."""


class ChatMessage(Wire):
    """One message of a conversation."""

    role: str = Field(min_length=1)
    content: str


class ChatRequest(Wire):
    """A next message wanted. Equal requests want the same text: they can be asked once."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    """Longest reply."""
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    """0: the likeliest text."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """What a draw depends on; None where nothing is drawn."""

    def body(self, model: str) -> dict[str, Any]:
        """What is posted, for the model of this name."""
        seed = {} if self.seed is None else {"seed": self.seed}
        messages = [message.model_dump() for message in self.messages]
        held = {"messages": messages, "max_tokens": self.max_tokens, "temperature": self.temperature}
        return {"model": model, **held, **seed}


class Reply(Wire):
    """What was written."""

    text: str
    """Empty where the writer said nothing that is text (a refusal, a call of a tool)."""
    finished: bool
    """False: cut off at `max_tokens`."""
    weights_version: int | None = None
    """The version that wrote it, where it is one of our teachers."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens written, as the server counts them; None: it does not say."""


def reply_of(answer: object) -> Reply:
    """The reply in an answer's body. Raises Corrupt where it is no chat completion."""
    choices = cast("dict[str, Any]", answer).get("choices") if isinstance(answer, dict) else None
    choice: Any = cast("list[Any]", choices)[0] if isinstance(choices, list) and choices else None
    message: Any = cast("dict[str, Any]", choice).get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Corrupt("choices[0].message: is missing; the server answers with no chat completion.")
    content: Any = cast("dict[str, Any]", message).get("content")
    finish: Any = cast("dict[str, Any]", choice).get("finish_reason")
    usage: Any = cast("dict[str, Any]", answer).get("usage")
    version = re.fullmatch(rf"{WROTE}(\d+)", str(cast("dict[str, Any]", answer).get("system_fingerprint")))
    tokens: Any = cast("dict[str, Any]", usage).get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(
        text=content if isinstance(content, str) else "",
        finished=finish != "length",
        tokens=tokens if isinstance(tokens, int) and tokens >= 0 else None,
        weights_version=None if version is None else int(version[1]),
    )
