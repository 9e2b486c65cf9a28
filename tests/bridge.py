"""An ASGI application behind httpx's transport seam: a whole service in this process, streams and lifespan included.

The application runs in an event loop of its own thread, so that the client stays synchronous, several threads may call
at once, and a body is read while it is still being written. What the application raises beyond its own error handling
is kept in `faults`: a test that ends with any has found a bug.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, MutableMapping
from types import TracebackType
from typing import Any, Self

import httpx
from starlette.requests import ClientDisconnect

PIECE = 64 * 1024
SECONDS = 60
"""How long to wait for the application to say something."""

Message = MutableMapping[str, Any]


class Bridge(httpx.BaseTransport):
    """Calls an application as a server would."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bridge", daemon=True)
        self._lifespan: Lifespan | None = None
        self.faults: list[BaseException] = []
        """What the application raised and did not handle."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._lifespan = Lifespan(self._app)
        self.call(self._lifespan.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        assert self._lifespan is not None
        try:
            self.call(self._lifespan.stop())
        finally:
            self.call(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
            self._loop.close()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine in the application's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(request, self._loop)
        running = asyncio.run_coroutine_threadsafe(exchange.run(self._app, self.faults), self._loop)
        try:
            start = exchange.next()
        except queue.Empty:
            running.cancel()
            raise httpx.ReadTimeout("the application did not answer", request=request) from None
        if start is None:
            raise httpx.ReadError("the application ended without an answer", request=request)
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange, request=request)


class Lifespan:
    """The application's start and stop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self._ask("lifespan.startup")

    async def stop(self) -> None:
        await self._ask("lifespan.shutdown")
        await self._task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await self._app(scope, self._asked.get, self._said.put)

    async def _ask(self, kind: str) -> None:
        await self._asked.put({"type": kind})
        said = asyncio.create_task(self._said.get())
        await asyncio.wait([said, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not said.done():
            said.cancel()
            self._task.result()  # raises what it ended with
            return
        if said.result()["type"].endswith(".failed"):
            await self._task


class Exchange(httpx.SyncByteStream):
    """One request and its answer. Closing it is what a client's hanging up is to a server."""

    def __init__(self, request: httpx.Request, loop: asyncio.AbstractEventLoop) -> None:
        body = request.read()
        self._pieces = [body[start : start + PIECE] for start in range(0, len(body), PIECE)] or [b""]
        self._loop = loop
        self._gone = asyncio.Event()
        self._said: queue.Queue[Message | None] = queue.Queue()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": (request.url.host, request.url.port or 80),
        }

    async def run(self, app: Any, faults: list[BaseException]) -> None:
        try:
            await app(self._scope, self._receive, self._send)
        except (asyncio.CancelledError, OSError, ClientDisconnect):
            pass
        except Exception as error:
            faults.append(error)
        finally:
            self._said.put(None)

    def next(self) -> Message | None:
        """What the application says next; None: nothing more."""
        return self._said.get(timeout=SECONDS)

    def __iter__(self) -> Iterator[bytes]:
        while (message := self.next()) is not None:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._gone.set)

    async def _receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            raise OSError("the client is gone")
        self._said.put(message)


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
