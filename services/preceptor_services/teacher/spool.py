"""Bodies of weights on their way to disk. One that states its content's hash may arrive in several requests.

    part-3f9c...            what has arrived of the content with this hash
    body-7.safetensors      whole: version 7

A part is kept when its request breaks off, and only until another begins: a teacher holds one at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from preceptor.errors import Conflict, Invalid, ServerFault
from preceptor_services.bodies import Silence, poured
from preceptor_services.problems import too_large
from preceptor_services.teacher.loader import Loader

PIECE = 4 << 20
"""Bytes that are written at one time."""


@dataclass(frozen=True, slots=True)
class Coming:
    """What a request says of the body that it brings."""

    sha256: str | None
    """Of the whole content; None: it comes in one request or not at all."""
    offset: int
    """Where in it this body begins."""


def arrived(loader: Loader, sha256: str) -> int:
    """Bytes that are here of a content."""
    part = _part(loader, sha256)
    return part.stat().st_size if part.exists() else 0


@asynccontextmanager
async def spooled(request: Request, loader: Loader, version: int, coming: Coming) -> AsyncGenerator[tuple[Path, int]]:
    """The whole content as a file, and how much of it this request has brought. The file is deleted afterwards, unless
    the loader has made it its base.

    Raises Conflict where the body begins elsewhere than what is here ends, Invalid where the content has another hash,
    TooLarge where it cannot be this model's, and Silence.
    """
    whole = loader.folder / f"body-{version}.safetensors"
    part = whole if coming.sha256 is None else _part(loader, coming.sha256)
    begin = _make_room(loader, part, coming)
    try:
        try:
            received = await _written(request, part, begin, loader.max_bytes)
        except OSError as error:
            raise ServerFault(
                f"The weights could not be written to {loader.folder} ({error.strerror}).",
                remedy="Make room there, or set PRECEPTOR_TEACHER_WEIGHTS_DIR.",
            ) from error
        if coming.sha256 is not None:
            await run_in_threadpool(_check, part, coming.sha256)
            part.rename(whole)
    except BaseException as error:
        if coming.sha256 is None or not isinstance(error, ClientDisconnect | Silence | asyncio.CancelledError):
            part.unlink(missing_ok=True)
        raise
    try:
        yield whole, received
    finally:
        if not loader.holds(whole):
            whole.unlink(missing_ok=True)


def _part(loader: Loader, sha256: str) -> Path:
    return loader.folder / f"part-{sha256}"


def _make_room(loader: Loader, part: Path, coming: Coming) -> int:
    """Where in the file the body begins. Parts of other contents go."""
    for other in loader.folder.glob("part-*"):
        if other != part:
            other.unlink()
    have = 0 if coming.sha256 is None else arrived(loader, coming.sha256)
    if coming.offset not in (0, have):
        raise Conflict(
            f"upload-offset: {have} bytes have arrived, but the body begins at {coming.offset}.",
            field="upload-offset",
            remedy=f"Go on at {have}, or begin at 0.",
        )
    return coming.offset


async def _written(request: Request, part: Path, begin: int, most: int) -> int:
    """Write a body behind the first `begin` bytes of a file; what has come is there however it ends."""
    received = 0
    with part.open("ab") as file:
        os.truncate(part, begin)

        def write(piece: bytes) -> None:
            nonlocal received
            received += len(piece)
            if begin + received > most:
                raise too_large(most)
            file.write(piece)

        await poured(request, write, PIECE)
    return received


def _check(part: Path, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise Invalid(
            f"sha256: the bytes have the hash {found}, not {sha256}; they were dropped.",
            field="sha256",
            remedy="Send the weights again from the start.",
        )
