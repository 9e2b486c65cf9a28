"""The bodies of uploads, as they come in: one that falls silent is broken off, for whoever sends it may be gone.

A host that loses its power or its link says no farewell. Left alone, its request would stay open for ever, and with it
whatever only one may do at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request

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
