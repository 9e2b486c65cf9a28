"""The control plane as a process."""

from __future__ import annotations

from types import FrameType

import uvicorn
from fastapi import FastAPI

from preceptor_services.api.app import create_app
from preceptor_services.api.plane import Plane
from preceptor_services.queue import CeleryQueue
from preceptor_services.settings import Settings

STOP_SECONDS = 5
"""How long open requests may take to end when the process is to stop."""


class _Server(uvicorn.Server):
    """Tells streams of events to end when the process is to stop: they do not end by themselves."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        plane: Plane | None = getattr(self._app.state, "plane", None)  # None: it has not started yet
        if plane is not None:
            plane.bell.close()
        super().handle_exit(sig, frame)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises BadSetting where a setting cannot be used."""
    queue = CeleryQueue(settings.broker_url.get_secret_value(), visibility_seconds=settings.visibility_timeout)
    app = create_app(settings, queue)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config, app)
    try:
        server.run()
    finally:
        queue.close()
    if not server.started:
        raise SystemExit(3)  # it said why; whoever supervises it must not take this for an end in peace
