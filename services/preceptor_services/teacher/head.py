"""`GET /v1/head`: one frame under its hash, whole or from anywhere, without ever being copied whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from preceptor.errors import Invalid
from preceptor.tensors import CONTENT_TYPE

CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})")


def head_response(
    request: Request, pieces: Sequence[bytes | memoryview], hash: str, media_type: str = CONTENT_TYPE
) -> Response:
    """The frame, or the range of it that was asked for. Raises Invalid (416) for a range outside it."""
    size = sum(len(piece) for piece in pieces)
    headers = {"ETag": f'"{hash}"', "Accept-Ranges": "bytes", "Cache-Control": "private, immutable, max-age=31536000"}
    known = request.headers.get("if-none-match", "")
    if f'"{hash}"' in (each.strip().removeprefix("W/") for each in known.split(",")):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", f'"{hash}"') != f'"{hash}"':
        headers["Content-Length"] = str(size)
        return StreamingResponse(_cut(pieces, 0, size), media_type=media_type, headers=headers)
    first, last = _range(wanted, size)
    headers["Content-Length"] = str(last - first)
    headers["Content-Range"] = f"bytes {first}-{last - 1}/{size}"
    return StreamingResponse(_cut(pieces, first, last), status_code=206, media_type=media_type, headers=headers)


def _range(wanted: str, size: int) -> tuple[int, int]:
    """First byte and the one after the last."""
    match = _RANGE.fullmatch(wanted.strip())
    first, last = (match["first"], match["last"]) if match else ("", "")
    if match is None or not (first or last):
        raise _unsatisfiable(f"Range: '{wanted[:60]}' is not one range of bytes.", size)
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= end:
        raise _unsatisfiable(f"Range: '{wanted[:60]}' is outside the head's {size} bytes.", size)
    return begin, end


def _unsatisfiable(detail: str, size: int) -> Invalid:
    error = Invalid(detail, field="Range", remedy=f"Ask for bytes=N- with N below {size}.")
    error.problem = error.problem.model_copy(update={"status": 416})
    return error


def _cut(pieces: Sequence[bytes | memoryview], begin: int, end: int) -> Iterator[bytes]:
    at = 0
    for piece in pieces:
        view = memoryview(piece)
        for start in range(max(0, begin - at), min(len(view), end - at), CHUNK):
            yield bytes(view[start : min(start + CHUNK, end - at)])
        at += len(view)
