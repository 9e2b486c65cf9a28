"""The two who debate: rules behind an OpenAI-compatible chat endpoint, as any model that chats would be.

Each knows the words of one half of the alphabet. Of any other it takes the word itself for the answer, is not sure, and
gives in once somebody has contradicted it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HALVES = {"first": "abcdefghijkl", "second": "mnopqrstuvwxyz"}
"""Which words each debater knows, by their first letter: about as many."""
SURE, UNSURE, CONVINCED = 95, 30, 60
"""What they say of their confidence: when they know, when they do not, and when they have given in."""
_QUESTION = re.compile(r"<question>.*:\s*([A-Za-z]+)\s*</question>", re.DOTALL)
_DEBATE = re.compile(r"<debate>\n(.*?)\n</debate>", re.DOTALL)


def knows(name: str, word: str) -> bool:
    """Whether a debater knows a word."""
    return word[0].lower() in HALVES[name]


def answer(name: str, word: str) -> str:
    """What it takes for the word spelt backward before it hears anybody."""
    return word[::-1] if knows(name, word) else word


def reply(name: str, prompt: str) -> str:
    """What it says, having read question and debate."""
    asked, debate = _QUESTION.search(prompt), _DEBATE.search(prompt)
    if asked is None:
        return "I only know how to spell a word backward."
    word = asked[1]
    own, sure = answer(name, word), SURE if knows(name, word) else UNSURE
    others = [line.split(": ", 1)[1] for line in (debate[1] if debate else "").splitlines() if ": " in line]
    against = [said for said in others if said != own]
    if against and not knows(name, word):
        own, sure = against[-1], CONVINCED
    return f"<argument>{own}</argument>\n<confidence>{sure}</confidence>"


@contextmanager
def serving(name: str) -> Iterator[str]:
    """Serve a debater on this machine; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": f"{name}-by-rule", "object": "model"}]})

        def do_POST(self) -> None:
            asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = reply(name, asked["messages"][-1]["content"])
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            self._send({"object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": len(text)}})

        def _send(self, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """The runs' ledgers say what was asked."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
