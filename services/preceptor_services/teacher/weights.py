"""`POST /v1/weights`: another version, streamed to disk, found to fit, and live between two requests."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from preceptor.errors import Invalid, NotFound, ServerFault
from preceptor.tensors import CONTENT_TYPE
from preceptor.wire.weights import WeightsKind, WeightsLoaded
from preceptor_services.teacher.loader import Loader, Update
from preceptor_services.teacher.service import Service

log = logging.getLogger(__name__)
PATH = "/v1/weights"
PIECE = 4 << 20
"""Bytes that are written at one time."""
router = APIRouter(tags=["weights"])


def loader_of(request: Request) -> Loader:
    """Who loads this teacher's weights. Raises NotFound where it takes none."""
    loader = request.app.state.service.loader
    if loader is None:
        raise NotFound(
            "This teacher takes no weights.",
            remedy="Start it with --takes-weights, or PRECEPTOR_TEACHER_TAKES_WEIGHTS.",
        )
    return loader


@router.post(PATH)
async def load_weights(
    request: Request,
    loader: Annotated[Loader, Depends(loader_of)],
    kind: Annotated[WeightsKind, Query(description="What the body holds.")] = WeightsKind.FULL,
    version: Annotated[int | None, Query(ge=1, le=2**53, description="Its number; else the live one and one.")] = None,
    scale: Annotated[float | None, Query(description="Of an adapter: what its product is multiplied with.")] = None,
    base: Annotated[str | None, Query(description="Of an adapter: the hash of the weights that it is for.")] = None,
) -> WeightsLoaded:
    """Load a safetensors body: docs/protocol.md. Requests that have begun are finished by the version before."""
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != CONTENT_TYPE:
        error = Invalid(f"Content-Type: '{content[:60]}' is not {CONTENT_TYPE}.", field="Content-Type")
        error.problem = error.problem.model_copy(update={"status": 415})
        raise error
    async with loader.turn():
        loader.check_base(base)
        return await _load(request, loader, kind, loader.next_version(version), scale)


async def _load(
    request: Request, loader: Loader, kind: WeightsKind, version: int, scale: float | None
) -> WeightsLoaded:
    service: Service = request.app.state.service
    async with _spooled(request, loader, version) as (body, received):
        began = time.monotonic()
        update = await run_in_threadpool(loader.read, body, kind, version, scale)
        await put_live(service, loader, body, update)
        seconds = time.monotonic() - began
    weights = update.weights
    log.info("version %d is live after %.2f s: %d tensors, %s", weights.version, seconds, len(weights.changed), kind)
    head = service.backend.about.head
    return WeightsLoaded(
        weights_version=weights.version,
        weights_hash=weights.hash,
        head_hash=None if head is None else head.hash,
        changed=len(weights.changed),
        received_bytes=received,
        seconds=seconds,
    )


async def put_live(service: Service, loader: Loader, body: Path, update: Update) -> None:
    """Exchange the weights for those that were read from `body`, between two requests."""
    make_live = await run_in_threadpool(service.backend.prepare, update.weights)

    def exchange() -> None:
        make_live()
        head = service.backend.about.head
        service.heads.move(None if head is None else head.hash, service.backend.head())
        loader.took(update)

    loader.expect(body)
    try:
        await service.scheduler.exclusive(exchange)
    except Exception:
        loader.expect(None)
        raise
    service.meters.loaded.inc()


@asynccontextmanager
async def _spooled(request: Request, loader: Loader, version: int) -> AsyncGenerator[tuple[Path, int]]:
    """The body as a file, and its length. Deleted afterwards, unless the loader has made it its base."""
    path = loader.folder / f"body-{version}.safetensors"
    received = 0
    try:
        try:
            with path.open("wb") as file:
                waiting = bytearray()
                async for piece in request.stream():
                    waiting += piece
                    received += len(piece)
                    if len(waiting) >= PIECE:
                        await run_in_threadpool(file.write, bytes(waiting))
                        waiting.clear()
                await run_in_threadpool(file.write, bytes(waiting))
        except OSError as error:
            raise ServerFault(
                f"The weights could not be written to {loader.folder} ({error.strerror}).",
                remedy="Make room there, or set PRECEPTOR_TEACHER_WEIGHTS_DIR.",
            ) from error
        yield path, received
    finally:
        if not loader.holds(path):
            path.unlink(missing_ok=True)
