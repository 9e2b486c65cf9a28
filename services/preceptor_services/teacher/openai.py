"""OpenAI's request and answer shapes, as far as they are served. A field that is not served is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=16)]
TokenId = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class TextPart(_Shape):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Shape):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    """Text; a list of text parts is joined."""
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        if isinstance(content, list):
            return "".join(TextPart.model_validate(part).text for part in content)
        return content


class StreamOptions(_Shape):
    """What a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Wish(_Shape):
    model: str
    n: int = Field(1, ge=1, le=16)
    temperature: float = Field(1.0, ge=0, le=10, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = []
    """Texts that end the answer and are not part of it."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Taken and not used."""
    frequency_penalty: Literal[0] | None = None
    """Not served: only 0 is taken."""
    presence_penalty: Literal[0] | None = None
    """Not served: only 0 is taken."""

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: Any) -> Any:
        return [] if stop is None else [stop] if isinstance(stop, str) else stop

    @field_validator("n", "temperature", "top_p", "stream", mode="before")
    @classmethod
    def _defaulted(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value


class CompletionWish(_Wish):
    """`POST /v1/completions`."""

    prompt: str | list[TokenId] | Annotated[list[str], Field(min_length=1, max_length=64)] | list[list[TokenId]]
    """Text or ids; several make several choices each."""
    max_tokens: int = Field(16, ge=1)
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many of the likeliest tokens to name with every token."""
    echo: Literal[False] | None = None
    """Not served: `POST /v1/score` scores a prompt."""
    best_of: Literal[1] | None = None
    """Not served: only 1 is taken."""


class ChatWish(_Wish):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of `max_completion_tokens`."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """None: as long as the model's positions and the teacher's limit allow."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class Usage(_Shape):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
