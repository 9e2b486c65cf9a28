"""A teacher's process: load a model folder, listen, drain when told to stop."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from preceptor.errors import Invalid
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.backends.scripted import ScriptedBackend
from preceptor_services.teacher.engines import BackendKind, open_engine
from preceptor_services.teacher.settings import TeacherSettings

log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8421


def serve(
    model: str | Path,
    settings: TeacherSettings,
    *,
    host: str = HOST,
    port: int = PORT,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    backend: BackendKind = BackendKind.HF,
    engine_url: str | None = None,
    engine_python: str | None = None,
) -> None:
    """Serve a model folder until SIGINT or SIGTERM; requests that were taken are finished. The scripted backend has no
    model, and looks at no other setting of what computes.

    threads: torch's compute threads; None leaves torch's choice. engine_url, engine_python: where the engine of another
    backend runs, or the interpreter that starts it. Raises UnreadableModel or Invalid before listening.
    """
    if backend is BackendKind.SCRIPTED:
        _listen(ScriptedBackend(), settings, host, port)
        return
    if backend is not BackendKind.HF:
        if settings.teacher_compile:
            raise Invalid(
                f"compile: the {backend} engine decides that itself; only the hf backend is compiled here.",
                field="compile",
                remedy="Leave --compile out.",
            )
        folder = Path(model)
        with open_engine(
            backend, folder, settings, device=device, dtype=dtype, url=engine_url, python=engine_python
        ) as engine:
            _listen(engine, settings, host, port)
        return
    # Only here: importing this file must not import torch.
    from preceptor_services.teacher.backends.hf import HfBackend, set_threads

    if threads is not None:
        set_threads(threads)
    hf = HfBackend(
        Path(model),
        device=device,
        dtype=dtype,
        forward_tokens=settings.teacher_forward_tokens,
        prefix_bytes=settings.teacher_prefix_bytes,
        compile=settings.teacher_compile,
    )
    _listen(hf, settings, host, port)


def _listen(backend: Backend, settings: TeacherSettings, host: str, port: int) -> None:
    log.info("teacher %s serves %s on http://%s:%d", settings.teacher_name, backend.about.model, host, port)
    listen(create_teacher_app(backend, settings), host, port)


def listen(app: FastAPI, host: str, port: int) -> None:
    """Answer until the process is told to stop. Raises SystemExit where the teacher breaks down, so that whatever
    supervises the process starts it anew."""
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", server_header=False))
    scheduler = app.state.service.scheduler

    def stop() -> None:
        server.should_exit = True

    scheduler.when_broken = stop
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(3)  # it said why
    if scheduler.broken is not None:
        raise SystemExit(1)
