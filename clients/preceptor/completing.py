"""OpenAI's endpoints of one of our own teachers: JSON posted, JSON read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, cast

from preceptor.errors import Corrupt


class Count(Protocol):
    """Told what passed between us and a teacher."""

    def __call__(self, *, bytes_sent: int = 0, bytes_received: int = 0) -> object: ...


class Completing(ABC):
    """Whoever posts bodies to a teacher."""

    url: str

    @abstractmethod
    def post(self, path: str, content: bytes, *, kind: str, timeout: float | None = None) -> bytes:
        """A body of this content type for an answer's."""

    def complete(
        self,
        wish: Mapping[str, Any],
        path: str = "/v1/completions",
        *,
        timeout: float | None = None,
        count: Count | None = None,
    ) -> dict[str, Any]:
        """Post a wish to one of OpenAI's paths; the answer as it is. Raises Invalid where the teacher does not
        write."""
        content = json.dumps(wish).encode()
        body = self.post(path, content, kind="application/json", timeout=timeout)
        if count is not None:
            count(bytes_sent=len(content), bytes_received=len(body))
        try:
            said: Any = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise Corrupt(f"{self.url}{path} did not answer with a JSON object.")
        return cast("dict[str, Any]", said)
