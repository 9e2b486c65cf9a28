"""Debaters as real HTTP servers: OpenAI-compatible chat endpoints that say what a test has them say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from preceptor.adapters.openai import LONGEST
from preceptor.wire.teachers import Card, Limits, TokenizerCard, Values

Say = Callable[[str], str | int]
"""From the prompt to the reply, or to an HTTP status."""


def reply(argument: str, confidence: object, answer: str = "42") -> str:
    """A reply as the template `discussion` wants it."""
    return f"<argument>{argument}</argument><answer>{answer}</answer><confidence>{confidence}</confidence>"


@dataclass
class Debater:
    """One that answers, and remembers what it was asked."""

    url: str
    prompts: list[str] = field(default_factory=list[str])


@contextmanager
def debater(say: Say, *, tokens: int | None = 7) -> Iterator[Debater]:
    """Serve one. `tokens`: what it says that each reply took; None: it does not say."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "talker"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = asked["messages"][-1]["content"]
            one.prompts.append(prompt)
            said = say(prompt)
            if isinstance(said, int):
                return self._send(said, {"error": {"message": "no"}})
            cut = len(said) > 4 * asked["max_tokens"]
            choice = {"message": {"content": said}, "finish_reason": "length" if cut else "stop"}
            usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
            return self._send(200, {"choices": [choice], **usage})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except BrokenPipeError:
                self.close_connection = True  # whoever asked has left

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one = Debater(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def card(name: str, **changes: Any) -> Card:
    """What a chat endpoint is found to be."""
    fields: dict[str, Any] = {
        "teacher": name,
        "model": "talker",
        "weights_version": 0,
        "engine": "openai",
        "device": "not stated",
        "dtype": "not stated",
        "tokenizer": TokenizerCard(fingerprint=None, vocab_size=0),
        "limits": Limits(max_tokens=LONGEST, max_batch_tokens=LONGEST, max_k=0, max_body_bytes=LONGEST * 16),
        "supports": (),
        "generates": True,
        "values": Values.PROCESSED,
    }
    return Card(**{**fields, **changes})
