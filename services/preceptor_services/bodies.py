"""The bodies of uploads, as they come in: one that falls silent is broken off, for whoever sends it may be gone.

A host that loses its power or its link says no farewell. Left alone, its request would stay open for ever, and with it
whatever only one may do at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from preceptor.errors import PreceptorError

SILENCE_SECONDS = 15.0
"""How long a body may bring nothing."""


class Silence(PreceptorError):
    """A body broke off without its connection being closed."""

    slug, title, status = "silence", "The body broke off", 408


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """A body, piece by piece. Raises Silence, and ClientDisconnect where the connection is closed."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Silence(
                f"Nothing of the body came for {SILENCE_SECONDS:g} s.", remedy="Send the rest, or all of it again."
            ) from error
        yield piece


async def poured(request: Request, write: Callable[[bytes], object], at_once: int) -> None:
    """Write a body as it comes, so many bytes at a time, in a thread.

    What has come when it breaks off is written, too: that is where the next one goes on. However this ends, every byte
    was written once, and nobody is still writing: whoever waits for it is about to close the file. Raises what `pieces`
    and `write` raise.
    """
    waiting = bytearray()
    try:
        async for piece in pieces(request):
            waiting += piece
            if len(waiting) >= at_once:
                full, waiting = bytes(waiting), bytearray()
                await _to_its_end(write, full)
    finally:
        if waiting:
            await _to_its_end(write, bytes(waiting))


async def _to_its_end(write: Callable[[bytes], object], piece: bytes) -> None:
    """Where this is cancelled, the thread writes on, and is waited for."""
    writing = asyncio.ensure_future(run_in_threadpool(write, piece))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        with suppress(Exception):  # what it fails of is nobody's answer any more
            await writing
        raise
