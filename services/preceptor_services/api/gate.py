"""What a request passes before anything of it is read: who are you, and how much are you sending.

As ASGI middleware and not as a dependency of each endpoint, so that no endpoint can be forgotten, and so that no body
is read for somebody without a key.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from preceptor.errors import Overloaded, PreceptorError
from preceptor.wire import common
from preceptor_services.api.keys.secrets import hash_of
from preceptor_services.api.plane import Plane
from preceptor_services.db import models
from preceptor_services.problems import bounded, check_length, not_authorised, problem_response

OPEN = frozenset({"/healthz", "/readyz"})
"""What needs no key."""
PIECES = "/v1/blobs/"
"""Where uploads go, which have a limit of their own."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a request came with."""

    key_id: str
    scope: common.Scope


class Gate:
    """Refuses requests without a good key, and bodies beyond the limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        plane: Plane = scope["app"].state.plane
        headers = Headers(scope=scope)
        limit = plane.settings.max_piece_bytes if scope["path"].startswith(PIECES) else plane.settings.max_body_bytes
        try:
            caller = await run_in_threadpool(_caller, plane, headers.get("authorization"))
            check_length(headers.get("content-length"), limit)
        except PreceptorError as error:
            await problem_response(error.problem, {"Connection": "close"})(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, bounded(receive, limit), send)


def _caller(plane: Plane, authorization: str | None) -> Caller:
    kind, _, secret = (authorization or "").partition(" ")
    secret = secret.strip()
    if kind.lower() != "bearer" or not secret:
        raise not_authorised("No key came with the request.", "Send one as `Authorization: Bearer KEY`.")
    query = select(models.Key).where(models.Key.hash == hash_of(secret), models.Key.revoked_at.is_(None))
    try:
        with plane.database.unit(writes=False) as unit:
            key = unit.session.scalar(query)
    except PreceptorError:
        raise
    except Exception as error:
        raise Overloaded("The database did not answer in time.", remedy="Try again.") from error
    if key is None:
        raise not_authorised("The key is unknown or revoked.", "Use another, or have an admin make one.")
    plane.uses.saw(key.id, plane.clock())
    return Caller(key_id=key.id, scope=common.Scope(key.scope))
