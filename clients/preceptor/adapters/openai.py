"""An OpenAI-compatible chat endpoint as a text teacher: it writes (critiques, debates, judgements) and scores nothing.

Such an endpoint states log-probabilities of what it writes itself at most, never of a student's tokens, and never as
ids: it offers no support, and a run that needs one is refused at submit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preceptor.adapters.answers import Answer, Asked, object_of, rows_of
from preceptor.adapters.stock import UNSTATED, StockClient
from preceptor.endpoint import Count
from preceptor.errors import Corrupt, Invalid
from preceptor.wire.teachers import Card, Limits, TokenizerCard, Values

LONGEST = 1 << 20
"""What stands on the card where the server does not say what it reads; it refuses what is too long itself."""


class OpenAIClient(StockClient):
    """A chat endpoint. Its URL is the server's root, or ends in `/v1` as OpenAI's own clients write it."""

    engine = "OpenAI-compatible"

    def healthz(self) -> bool:
        """True; raises where the server does not answer. There is no health endpoint that all of them have."""
        self._get(self._path("/models"))
        return True

    def card(self) -> Card:
        """The model's name and, where the server states it, what it reads."""
        entry = self._model()
        longest = entry.get("max_model_len")
        longest = longest if isinstance(longest, int) and longest > 0 else LONGEST
        self._found = Card(
            teacher=self.stock.name,
            model=str(entry["id"]),
            weights_version=0,
            engine="openai",
            device=UNSTATED,
            dtype=UNSTATED,
            tokenizer=TokenizerCard(fingerprint=None, vocab_size=0),
            limits=Limits(max_tokens=longest, max_batch_tokens=longest, max_k=0, max_body_bytes=LONGEST * 16),
            supports=(),
            generates=True,
            values=Values.PROCESSED,
        )
        return self._found

    def chat(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float = 1.0) -> str:
        """The assistant's next message."""
        model = (self._found or self.card()).model
        body = {
            "model": model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        try:
            answer = self._post(self._path("/chat/completions"), body)
        except Invalid as error:
            if "max_completion_tokens" not in error.problem.detail:
                raise
            body["max_completion_tokens"] = body.pop("max_tokens")  # the newer name, which some models insist on
            answer = self._post(self._path("/chat/completions"), body)
        choices = rows_of(answer, "choices")
        message = object_of(choices[0].get("message") if choices else None, "choices[0].message")
        content = message.get("content")
        if not isinstance(content, str):
            raise Corrupt("choices[0].message.content: is no text.")
        return content

    def _models_path(self) -> str:
        return self._path("/models")

    def _path(self, path: str) -> str:
        return path if self.url.endswith("/v1") else f"/v1{path}"

    def _sequence(self, sequence: Asked, timeout: float | None, count: Count | None) -> Answer:
        raise Invalid("support: a text teacher scores nothing.", field="support")
