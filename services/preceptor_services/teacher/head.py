"""`GET /v1/head`: a frame under its hash, whole or from anywhere, without ever being copied whole; or what has changed.

A teacher that moves keeps the heads of the versions before: whoever was scored by one can still fetch its head.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from preceptor.errors import Invalid, NotFound
from preceptor.head_delta import encode_delta
from preceptor.tensors import CONTENT_TYPE

Pieces = Sequence[bytes | memoryview]
"""A frame, to be written one piece after the other."""
CHUNK = 1 << 20
KEPT = 3
"""Heads that are held, the live one among them, unless somebody wants more of them."""
_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})")


class Heads:
    """The live head and those before it, by hash. Safe to share between threads."""

    def __init__(self, hash: str | None = None, pieces: Pieces | None = None) -> None:
        """None: the teacher has no head to give."""
        self.kept = KEPT
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Pieces] = OrderedDict()
        self._delta: tuple[tuple[str, str], Pieces] | None = None  # the latest: a moving teacher's learners ask alike
        self.move(hash, pieces)

    def move(self, hash: str | None, pieces: Pieces | None) -> None:
        """This one is live from now on."""
        if hash is None or pieces is None:
            return
        with self._lock:
            self._held[hash] = pieces
            self._held.move_to_end(hash)
            while len(self._held) > self.kept:
                self._held.popitem(last=False)

    def find(self, hash: str | None = None) -> tuple[str, Pieces]:
        """The head of this hash, or the live one. Raises NotFound where there is none, or it is gone."""
        with self._lock:
            if not self._held:
                raise NotFound("This teacher has no head to give.", remedy="Ask for a support other than 'full'.")
            live = next(reversed(self._held))
            hash = live if hash is None else hash
            if hash not in self._held:
                raise NotFound(
                    f"hash: the head {hash[:80]} is gone, or never was this teacher's; its head is {live}.",
                    field="hash",
                    remedy="Ask for the scores again, and for the head that their stamp names.",
                )
            return hash, self._held[hash]

    def delta(self, since: str, hash: str) -> Pieces | None:
        """What has changed between two heads; None where saying it takes as much as the new one, or one is gone."""
        with self._lock:
            old, new = self._held.get(since), self._held.get(hash)
            if self._delta is not None and self._delta[0] == (since, hash):
                return self._delta[1]
        if old is None or new is None:
            return None
        found = encode_delta(old, since, new, hash)
        if found is None or sum(map(len, found)) >= sum(map(len, new)):
            return None
        with self._lock:
            self._delta = (since, hash), found
        return found


def delta_response(pieces: Pieces) -> Response:
    """What has changed, whole: it is made anew for another pair of heads."""
    headers = {"Content-Length": str(sum(map(len, pieces))), "Cache-Control": "private, no-store"}
    return StreamingResponse(_cut(pieces, 0, sum(map(len, pieces))), media_type=CONTENT_TYPE, headers=headers)


def head_response(request: Request, pieces: Pieces, hash: str, media_type: str = CONTENT_TYPE) -> Response:
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


def _cut(pieces: Pieces, begin: int, end: int) -> Iterator[bytes]:
    at = 0
    for piece in pieces:
        view = memoryview(piece)
        for start in range(max(0, begin - at), min(len(view), end - at), CHUNK):
            yield bytes(view[start : min(start + CHUNK, end - at)])
        at += len(view)
