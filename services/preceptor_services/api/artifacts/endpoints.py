"""Artifacts over HTTP: announce, send what is missing in pieces, complete; read with ranges."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Body, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.artifacts import Artifact, ArtifactKind, BlobState, Manifest, Upload
from preceptor.wire.common import Page
from preceptor_services.api.artifacts import service
from preceptor_services.api.deps import LIMIT, Cursor, Limit, PlaneDep, Reader, Runner, UnitDep, router
from preceptor_services.bodies import poured
from preceptor_services.db.session import Database

ROUTER = router("artifacts")
FLUSH = 2**20
"""Bytes that are gathered before they are written."""

Sha256Path = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, in hex.")]
ArtifactPath = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$", description="The artifact's id.")]
_MANIFEST = Body(
    openapi_examples={
        "dataset": {
            "summary": "A dataset of one file",
            "value": {
                "kind": "dataset",
                "name": "algebra",
                "files": [{"path": "train.jsonl", "size": 48, "sha256": "9f86d081884c7d659a2feaa0c55ad015" * 2}],
            },
        }
    }
)


@ROUTER.post("/artifacts")
def announce_artifact(
    manifest: Annotated[Manifest, _MANIFEST], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> Upload:
    """Say what an artifact consists of, and learn which contents are missing and where their uploads go on."""
    return service.announce(unit.session, plane.blobs, manifest, plane.clock(), limit=plane.settings.max_artifact_bytes)


@ROUTER.get("/artifacts")
def list_artifacts(
    caller: Reader,
    unit: UnitDep,
    kind: Annotated[ArtifactKind | None, Query()] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[Artifact]:
    """Artifacts, newest first."""
    return service.page(unit.session, kind, limit, cursor)


@ROUTER.get("/artifacts/{artifact_id}")
def show_artifact(artifact_id: ArtifactPath, caller: Reader, unit: UnitDep) -> Artifact:
    """One artifact, with its manifest and what opening it showed."""
    return service.shown(service.get(unit.session, artifact_id))


@ROUTER.post("/artifacts/{artifact_id}/complete")
def complete_artifact(artifact_id: ArtifactPath, caller: Runner, plane: PlaneDep) -> Artifact:
    """Check that everything is here and can be opened as what it says it is."""
    return service.complete(plane.database, plane.blobs, artifact_id)


@ROUTER.put(
    "/blobs/{sha256}",
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def send_piece(
    sha256: Sha256Path,
    request: Request,
    caller: Runner,
    plane: PlaneDep,
    upload_length: Annotated[int, Header(ge=0, le=2**53, description="Bytes of the whole content.")],
    upload_offset: Annotated[int, Header(ge=0, le=2**53, description="Where in it this piece begins.")] = 0,
) -> BlobState:
    """Send a piece of a content: the next bytes after those that have arrived. The last piece has the hash checked."""
    await run_in_threadpool(_check_announced, plane.database, sha256, upload_length)
    if plane.blobs.has(sha256, upload_length):
        return BlobState(sha256=sha256, size=upload_length, offset=upload_length)
    with plane.blobs.writing(sha256, upload_length) as part:
        if part.offset != upload_offset:
            raise Conflict(
                f"upload-offset: {part.offset} bytes have arrived, but the piece begins at {upload_offset}.",
                field="upload-offset",
                remedy=f"Go on at {part.offset}.",
            )
        await poured(request, part.write, FLUSH)
        if part.offset == upload_length:
            await run_in_threadpool(part.finish)
        return BlobState(sha256=sha256, size=upload_length, offset=part.offset)


def _check_announced(database: Database, sha256: str, size: int) -> None:
    with database.unit(writes=False) as unit:
        sizes = service.blob_size(unit.session, sha256)
    if not sizes:
        raise NotFound("No artifact names this content.", field="sha256", remedy="Announce the artifact first.")
    if size not in sizes:
        stated = " or ".join(str(each) for each in sorted(sizes))
        raise Invalid(
            f"upload-length: {size} is not the size that the artifact states, {stated}.", field="upload-length"
        )


_BYTES = {"content": {"application/octet-stream": {}}}


@ROUTER.get(
    "/blobs/{sha256}",
    response_class=Response,
    responses={200: {**_BYTES, "description": "The content"}, 206: {**_BYTES, "description": "The range asked for"}},
)
def read_blob(
    sha256: Sha256Path,
    caller: Reader,
    plane: PlaneDep,
    range: Annotated[str | None, Header(max_length=100, description="E.g. `bytes=1024-`.")] = None,
) -> Response:
    """A content, or a range of it."""
    try:
        size = plane.blobs.path(sha256).stat().st_size
        start, stop = _range(range, size)
        content = plane.blobs.read(sha256, start, stop)
    except FileNotFoundError as error:
        raise NotFound("There is no such content, or it is not whole yet.", remedy="Complete its upload.") from error
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{sha256}"', "Content-Length": str(stop - start)}
    if range is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return StreamingResponse(
        content,
        status_code=200 if range is None else 206,
        media_type="application/octet-stream",
        headers=headers,
    )


class BadRange(Invalid):
    """A range that the content does not have."""

    slug, title, status = "bad-range", "Range not satisfiable", 416


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and the one after the last. Raises BadRange."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", header.strip(), re.ASCII)
    if match is None or not any(match.groups()):
        raise BadRange(f"range: {header!r} is not a single range of bytes.", field="range", remedy="Write bytes=0-99.")
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(size - int(last), 0), size
    if start >= stop:
        raise BadRange(f"range: the content has {size} bytes, and {header!r} asks for none of them.", field="range")
    return start, stop
