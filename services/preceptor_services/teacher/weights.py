"""`POST /v1/weights`: another version, streamed to disk, found to fit, and live between two requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.concurrency import run_in_threadpool

from preceptor.errors import Invalid, NotFound
from preceptor.tensors import CONTENT_TYPE
from preceptor.wire.weights import WeightsArrived, WeightsKind, WeightsLoaded
from preceptor_services.teacher.loader import Loader, Update
from preceptor_services.teacher.service import Service
from preceptor_services.teacher.spool import Coming, arrived, spooled

log = logging.getLogger(__name__)
PATH = "/v1/weights"
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


Sha256 = Query(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the whole body, in hex.")


@router.get(PATH)
def look_at_upload(loader: Annotated[Loader, Depends(loader_of)], sha256: Annotated[str, Sha256]) -> WeightsArrived:
    """How much has arrived of a body that was broken off: where sending it goes on."""
    return WeightsArrived(sha256=sha256, offset=arrived(loader, sha256), busy=loader.busy)


@router.post(PATH)
async def load_weights(
    request: Request,
    loader: Annotated[Loader, Depends(loader_of)],
    kind: Annotated[WeightsKind, Query(description="What the body holds.")] = WeightsKind.FULL,
    version: Annotated[int | None, Query(ge=1, le=2**53, description="Its number; else the live one and one.")] = None,
    scale: Annotated[float | None, Query(description="Of an adapter: what its product is multiplied with.")] = None,
    base: Annotated[str | None, Query(description="Of an adapter: the hash of the weights that it is for.")] = None,
    sha256: Annotated[str | None, Sha256] = None,
    upload_offset: Annotated[int, Header(ge=0, le=2**53, description="Where in the whole this body begins.")] = 0,
) -> WeightsLoaded:
    """Load a safetensors body: docs/protocol.md. Requests that have begun are finished by the version before."""
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != CONTENT_TYPE:
        error = Invalid(f"Content-Type: '{content[:60]}' is not {CONTENT_TYPE}.", field="Content-Type")
        error.problem = error.problem.model_copy(update={"status": 415})
        raise error
    if upload_offset and sha256 is None:
        raise Invalid("sha256: a body that goes on with another one states the hash of both.", field="sha256")
    async with loader.turn():
        loader.check_base(base)
        return await _load(request, loader, kind, loader.next_version(version), scale, Coming(sha256, upload_offset))


async def _load(
    request: Request, loader: Loader, kind: WeightsKind, version: int, scale: float | None, coming: Coming
) -> WeightsLoaded:
    service: Service = request.app.state.service
    async with spooled(request, loader, version, coming) as (body, received):
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


async def put_live(
    service: Service, loader: Loader, body: Path, update: Update, announce: Callable[[str], object] | None = None
) -> None:
    """Exchange the weights for those that were read from `body`, between two requests. `announce` is told their hash
    when what was begun is finished, and nothing new is begun; what it raises leaves everything as it is."""
    make_live = await run_in_threadpool(service.backend.prepare, update.weights)

    def exchange() -> None:
        if announce is not None:
            announce(update.weights.hash)
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
