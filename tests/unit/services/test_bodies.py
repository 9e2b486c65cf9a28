"""Bodies on their way to disk: every byte is written once, and nobody is still writing when the file is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from preceptor_services.bodies import poured


class Sent:
    """A request whose body comes in these pieces, and then no more for a long time."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        await asyncio.Event().wait()


def test_whoever_is_cancelled_while_a_thread_writes_waits_for_it() -> None:
    """What a server does to the uploads that are open when it is told to stop."""
    written, begun, go_on = list[bytes](), threading.Event(), threading.Event()

    def write(piece: bytes) -> None:
        begun.set()
        go_on.wait(10)
        written.append(piece)

    async def main() -> None:
        request: Any = Sent(b"ab", b"cd", b"e")
        pouring = asyncio.create_task(poured(request, write, 4))
        await asyncio.to_thread(begun.wait, 10)
        pouring.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not pouring.done(), "the file would be closed under the thread"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await pouring
        assert written == [b"abcd"], "and once: what is sent later goes on behind it"

    asyncio.run(main())


def test_what_has_come_when_a_body_breaks_off_is_written() -> None:
    written = list[bytes]()

    async def main() -> None:
        request: Any = Sent(b"ab", b"cd", b"e")
        pouring = asyncio.create_task(poured(request, written.append, 4))
        while not written:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)  # until it waits for more
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring

    asyncio.run(main())
    assert b"".join(written) == b"abcde"


def test_what_cannot_be_written_is_said_and_not_tried_again() -> None:
    tried = list[bytes]()

    def write(piece: bytes) -> None:
        tried.append(piece)
        raise OSError("no room")

    request: Any = Sent(b"ab", b"cd", b"e")
    with pytest.raises(OSError, match="no room"):
        asyncio.run(poured(request, write, 4))
    assert tried == [b"abcd"]
