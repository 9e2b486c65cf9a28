"""The control plane as a process."""

from __future__ import annotations

import uvicorn

from preceptor_services.api.app import create_app
from preceptor_services.queue import CeleryQueue
from preceptor_services.settings import Settings

STOP_SECONDS = 5
"""How long open requests may take to end when the process is to stop: streams of events do not end by themselves."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises BadSetting where a setting cannot be used."""
    queue = CeleryQueue(settings.broker_url.get_secret_value(), visibility_seconds=settings.visibility_timeout)
    try:
        uvicorn.run(
            create_app(settings, queue),
            host=settings.host,
            port=settings.port,
            log_level="info",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    finally:
        queue.close()
