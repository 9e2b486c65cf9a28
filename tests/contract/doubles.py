"""Doubles for what lies outside the control plane: a clock, a queue, teachers; and a model small enough to push."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from preceptor.errors import Unreachable
from preceptor.fingerprint import tokenizer_card
from preceptor.wire.teachers import Card, HeadCard, Limits, Outcome, Probe, ProbeCheck, Support
from preceptor_services.queue import QueueUnavailable


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self._at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._at += timedelta(milliseconds=1)  # no two things happen at once
        return self._at

    def pass_seconds(self, seconds: float) -> None:
        self._at += timedelta(seconds=seconds)


class FakeQueue:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.down = False

    def enqueue_run(self, run_id: str) -> None:
        if self.down:
            raise QueueUnavailable("The broker is down.")
        self.sent.append(run_id)

    def enqueue_debate(self, debate_id: str) -> None:
        self.enqueue_run(debate_id)


class Faculty:
    """Teachers by URL, as a probe would find them."""

    def __init__(self) -> None:
        self.cards: dict[str, Card] = {}
        self.failing: set[str] = set()
        self.keys: dict[str, str | None] = {}
        self.how: dict[str, tuple[object, ...]] = {}
        """What else a look was told, for a stock server."""
        self.logprobs: dict[str, tuple[float, ...]] = {}
        """What a probe finds the same tokens' log-probabilities to be."""
        self.watched: list[str] = []
        """URLs that were asked for signs of life."""

    def __call__(self, url: str, key: str | None, *how: object) -> tuple[Card, Probe]:
        if url not in self.cards:
            raise Unreachable(f"No answer from {url}.")
        self.keys[url], self.how[url] = key, how
        ok = url not in self.failing
        outcome = Outcome.PASSED if ok else Outcome.FAILED
        check = ProbeCheck(name="parity", outcome=outcome, detail="Log-probabilities agree within 1e-4.")
        logprobs = self.logprobs.get(url, ())
        return self.cards[url], Probe(at=datetime.now(UTC), ok=ok, latency_ms=3.0, checks=(check,), logprobs=logprobs)

    def vital(self, url: str, key: str | None, *how: object) -> Card | None:
        self.watched.append(url)
        if url not in self.cards:
            raise Unreachable(f"No answer from {url}.")
        return None if how else self.cards[url]


def write_model(folder: Path, *, vocab: tuple[str, ...] = ("a", "b", "c", "<end>"), template: bool = True) -> Path:
    """A model folder with everything a submit looks at, and weights of a few numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": len(vocab) - 1, "content": vocab[-1], "special": True}],
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {token: index for index, token in enumerate(vocab)}, "merges": []},
    }
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": len(vocab)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": vocab[-1]}))
    if template:
        (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    save_file({"embed": np.zeros((len(vocab), 2), dtype=np.float32)}, folder / "model.safetensors")
    return folder


def card_for(folder: Path, name: str = "spelling", **changes: Any) -> Card:
    """The card of a teacher that serves this model; one that writes has room for as much as recipes ask for."""
    reads = 8192 if changes.get("generates") else 512
    fields: dict[str, Any] = {
        "teacher": name,
        "model": folder.name,
        "weights_version": 0,
        "engine": "fake 1",
        "device": "cpu",
        "dtype": "float32",
        "tokenizer": tokenizer_card(folder),
        "tokenizer_file": "sha256:" + "1" * 64,
        "limits": Limits(max_tokens=reads, max_batch_tokens=65536, max_k=64, max_body_bytes=2**28),
        "supports": tuple(Support),
        "head": HeadCard(hash="sha256:" + "0" * 64, hidden_size=2),
    }
    return Card(**{**fields, **changes})


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
