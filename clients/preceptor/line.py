"""HTTP that another thread can break off: the only way out of a blocking read whose answer nobody wants any more.

A server that is hung up on frees the work; a client that merely stopped listening would leave it computing.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx


class Line(httpx.BaseTransport):
    """httpx's own transport (the environment's proxies included), which knows its sockets."""

    def __init__(self) -> None:
        self._http = httpx.Client(follow_redirects=False)
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._broken = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": self._trace}
        return self._http.send(request, stream=True)

    def break_off(self) -> None:
        """End every request that is on the line, with httpx.TransportError where it was sent. The line is done then."""
        with self._lock:
            self._broken = True
            held = list(self._sockets)
        for each in held:
            _shut(each)

    def close(self) -> None:
        self._http.close()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if not event.endswith(("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")):
            return
        held: socket.socket = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets.add(held)
            broken = self._broken
        if broken:
            _shut(held)


def _shut(held: socket.socket) -> None:
    # The plain socket's: a TLS one would first forget its session under the thread that reads from it.
    with suppress(OSError):
        socket.socket.shutdown(held, socket.SHUT_RDWR)
