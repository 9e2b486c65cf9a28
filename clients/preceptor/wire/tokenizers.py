"""A teacher's tokenizer on the wire: what a learner needs to write text in the teacher's ids."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import Field

from preceptor.wire.common import Wire


class TokenizerFile(Wire):
    """The body of `GET /v1/tokenizer`. Data only: nothing in it is run, and the template is rendered in a sandbox."""

    tokenizer: dict[str, Any]
    """The content of `tokenizer.json`, as the `tokenizers` library reads it."""
    chat_template: str | None = None
    """The template that its prompts are written with; None: there is none."""
    special: dict[str, str] = Field(default_factory=dict[str, str])
    """Special tokens as text by name (`bos_token`, `eos_token`): templates write them."""


def body_hash(body: bytes) -> str:
    """What the file is named by: the hash of its bytes as they were served."""
    return "sha256:" + hashlib.sha256(body).hexdigest()
