"""The teacher's application: a key on every port but health, bounded bodies, every error a problem."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preceptor.errors import Overloaded, PreceptorError
from preceptor.tensors import CONTENT_TYPE
from preceptor_services import problems
from preceptor_services.teacher import completions, scores, weights, writes
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.service import Service
from preceptor_services.teacher.settings import TeacherSettings

OPEN = frozenset({"/healthz", "/readyz"})
"""What needs no key."""
MAX_JSON_BYTES = 16 << 20


def create_teacher_app(backend: Backend, settings: TeacherSettings, *, loads: bool = True) -> FastAPI:
    """A teacher's application. Nothing is computed before the first request.

    `loads`: whether weights are taken over HTTP, where the settings say that it takes any; without, only whoever made
    the application gives it some. Raises Invalid where the settings ask for what the backend cannot do.
    """
    service = Service.of(backend, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(title="Preceptor teacher", version="1", lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Gate, service=service)
    app.include_router(scores.router)
    app.include_router(completions.router)
    if loads:
        app.include_router(weights.router)
    app.include_router(writes.router)
    problems.install(app, "The teacher", openai=completions.PATHS)

    @app.get("/healthz", response_class=PlainTextResponse, tags=["health"])
    async def healthz() -> str:
        """The process answers; 503 where it will never compute anything again."""
        service.scheduler.check()
        return "ok"

    @app.get("/readyz", response_class=PlainTextResponse, tags=["health"])
    async def readyz() -> str:
        """The model is loaded and requests are taken; 503 while the teacher is draining."""
        service.scheduler.check()
        if service.scheduler.draining:
            raise Overloaded("The teacher is draining.", remedy="Ask another.")
        return "ready"

    @app.get("/metrics", response_class=Response, tags=["health"])
    def metrics(request: Request) -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(service.meters.registry), media_type=CONTENT_TYPE_LATEST)

    return app


class Gate:
    """Refuses requests without the key and bodies beyond the limit, before anything is read; counts every answer.

    As ASGI middleware and not as a dependency, so that no endpoint can be forgotten.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._key = service.settings.teacher_key.get_secret_value().strip().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(scope["path"], headers)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = getattr(scope.get("route"), "path", "none")
                self._service.meters.requests.labels(endpoint, str(message["status"])).inc()
            await send(message)

        try:
            self._check_key(headers.get("authorization"))
            problems.check_length(headers.get("content-length"), limit)
        except PreceptorError as error:
            message = scope["path"] in completions.PATHS
            refusal = problems.problem_response(error.problem, {"Connection": "close"}, message=message)
            await refusal(scope, receive, counted)
            return
        await self._app(scope, problems.bounded(receive, limit), counted)

    def _limit(self, path: str, headers: Headers) -> int:
        loader = self._service.loader
        if path == weights.PATH and loader is not None:
            return loader.max_bytes
        # JSON is for people, and parsing it takes fifty times its size for as long as nothing else runs.
        binary = headers.get("content-type", "").startswith(CONTENT_TYPE)
        limit = self._service.settings.teacher_max_body_bytes
        return limit if binary else min(limit, MAX_JSON_BYTES)

    def _check_key(self, authorization: str | None) -> None:
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise problems.not_authorised("No key came with the request.", "Send one as `Authorization: Bearer KEY`.")
        if not secrets.compare_digest(secret.strip().encode("utf-8", "replace"), self._key):
            raise problems.not_authorised("The key is not this teacher's.", "Use the one it was started with.")
