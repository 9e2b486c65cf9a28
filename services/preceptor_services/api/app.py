"""The control plane as an application. `create_app` only puts the parts together; they open when it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from fastapi import FastAPI
from fastapi.middleware import Middleware
from starlette.concurrency import run_in_threadpool

from preceptor.probe import probe_teacher
from preceptor.vital import vital_signs
from preceptor.wire.teachers import Card, Probe
from preceptor_services.api import health, problems
from preceptor_services.api.artifacts import endpoints as artifacts
from preceptor_services.api.artifacts.blobs import Blobs
from preceptor_services.api.codistillations import endpoints as codistillations
from preceptor_services.api.debates import endpoints as debates
from preceptor_services.api.gate import Gate
from preceptor_services.api.keys import endpoints as keys
from preceptor_services.api.keys.service import bootstrap
from preceptor_services.api.plane import Bell, Plane
from preceptor_services.api.recipes import endpoints as recipes
from preceptor_services.api.runs import endpoints as runs
from preceptor_services.api.runs import worker_endpoints
from preceptor_services.api.skills import endpoints as skills
from preceptor_services.api.sweeper import sweep_for_ever
from preceptor_services.api.teachers import endpoints as teachers
from preceptor_services.api.teachers.watch import Watcher
from preceptor_services.db.columns import now
from preceptor_services.db.migrations import upgrade
from preceptor_services.db.session import Database
from preceptor_services.own_recipes import open_own_recipes
from preceptor_services.queue import Queue
from preceptor_services.settings import Settings

ROUTERS = (
    health.ROUTER,
    runs.ROUTER,
    worker_endpoints.ROUTER,
    teachers.ROUTER,
    recipes.ROUTER,
    artifacts.ROUTER,
    skills.ROUTER,
    codistillations.ROUTER,
    codistillations.WORKER_ROUTER,
    debates.ROUTER,
    keys.ROUTER,
)


def create_app(
    settings: Settings,
    queue: Queue,
    *,
    announce: Callable[[str], None] = print,
    probe: Callable[..., tuple[Card, Probe]] = probe_teacher,
    vital: Callable[..., Card | None] = vital_signs,
    clock: Callable[[], datetime] = now,
) -> FastAPI:
    """The application. `announce` shows the admin key of the first start, once; `probe` looks at
    teachers that are registered, `vital` at those that runs use."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database)
        try:
            secret = await run_in_threadpool(_prepare, database, settings, clock)
            if secret is not None:
                announce(f"Admin key, shown this once: {secret}")
            plane = app.state.plane = Plane(
                settings=settings,
                database=database,
                blobs=Blobs(settings.blob_dir),
                queue=queue,
                clock=clock,
                probe=probe,
                vital=vital,
                bell=Bell(),
            )
            sweeper, watcher = asyncio.create_task(sweep_for_ever(plane)), Watcher(plane)
            watcher.start()
            try:
                yield
            finally:
                sweeper.cancel()
                with suppress(asyncio.CancelledError):
                    await sweeper
                await run_in_threadpool(watcher.stop)
        finally:
            database.close()

    app = FastAPI(
        title="Preceptor",
        summary="The control plane: runs, teachers, recipes, artifacts, skill banks, debates, keys.",
        description="Send a key as `Authorization: Bearer KEY`. Every error is a problem (RFC 9457).",
        version="1",
        lifespan=lifespan,
        middleware=[Middleware(Gate)],
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    _secure(app)
    return app


def _prepare(database: Database, settings: Settings, clock: Callable[[], datetime]) -> str | None:
    open_own_recipes(settings.recipes)
    upgrade(database.engine)
    with database.unit(writes=True) as unit:
        return bootstrap(unit.session, settings, clock())


def _secure(app: FastAPI) -> None:
    """Have OpenAPI say that everything but health needs a key: the gate sees to it, which OpenAPI cannot know."""
    plain = app.openapi

    def openapi() -> dict[str, object]:
        schema = plain()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A key of scope read, run or admin."}
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["security"] = [{"key": []}] if path.startswith("/v1/") else []
        return schema

    app.openapi = openapi


__all__ = ["create_app"]
