"""An OpenAI-compatible chat endpoint as a text teacher: it writes (critiques, debates, judgements) and scores nothing.

Such an endpoint states log-probabilities of what it writes itself at most, never of a student's tokens, and never as
ids: it offers no support, and a run that needs one is refused at submit.
"""

from __future__ import annotations

from preceptor.adapters.answers import Answer, Asked
from preceptor.adapters.stock import UNSTATED, StockClient
from preceptor.endpoint import Count
from preceptor.errors import Invalid
from preceptor.wire.teachers import Card, Limits, TokenizerCard, Values

LONGEST = 1 << 20
"""What stands on the card where the server does not say what it reads; it refuses what is too long itself."""


class OpenAIClient(StockClient):
    """A chat endpoint. Its URL is the server's root, or ends in `/v1` as OpenAI's own clients write it."""

    engine = "OpenAI-compatible"

    def healthz(self) -> bool:
        """True; raises where the server does not answer. There is no health endpoint that all of them have."""
        self._get(self._place("/v1/models"))
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

    def _place(self, path: str) -> str:
        return path.removeprefix("/v1") if self.url.endswith("/v1") else path

    def _sequence(self, sequence: Asked, timeout: float | None, count: Count | None) -> Answer:
        raise Invalid("support: a text teacher scores nothing.", field="support")
