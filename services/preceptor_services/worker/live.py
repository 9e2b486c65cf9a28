"""A run's live student as a teacher: served from this process, by the weights of the last step that was published.

The teacher's own application, over a copy of the student that moves only when a version is published: what is being
learned is never seen half. Nobody can send it weights over HTTP; whoever trains it does, in here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from preceptor.errors import Invalid
from preceptor.weights import body_of
from preceptor.wire.teachers import Card
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.teacher.service import Service
from preceptor_services.teacher.settings import TeacherSettings
from preceptor_services.teacher.weights import put_live
from preceptor_trainer.trained import Trained

_log = logging.getLogger(__name__)
STARTS_SECONDS = 30.0
HEADS = 16
"""Versions of its output projection that a published student holds for whoever was scored by one: its peer may be that
far behind, on a slow link, when it asks for the one that its scores belong to."""


class LiveStudent:
    """Listens from its first version on, until it is closed."""

    def __init__(self, folder: Path, name: str, key: SecretStr, address: tuple[str, int]) -> None:
        """`folder`: the model that the run began with; `name`: what it is registered as; `address`: where to listen,
        port 0 for any. Raises Invalid where that is taken, or the model takes no other weights."""
        backend = HfBackend(folder)
        backend.about = replace(backend.about, model=name)  # the folder's name differs from worker to worker
        told = {"teacher_key": key, "teacher_name": name, "teacher_takes_weights": True}
        told["teacher_max_new_tokens"] = backend.about.max_tokens  # how long a reply may be, the peer's recipe says
        settings = TeacherSettings.model_validate(told)  # and nothing of the environment, which is for other teachers
        self._app = create_teacher_app(backend, settings, loads=False)
        self._service: Service = self._app.state.service
        self._service.heads.kept = HEADS  # it moves whether or not its peer has fetched what belongs to a score
        try:
            self._socket = socket.create_server(address)
        except OSError as error:
            raise Invalid(
                f"This worker cannot publish its student at {address[0]}:{address[1]} ({error.strerror}).",
                field="PRECEPTOR_PEER_PORT",
                remedy="Set PRECEPTOR_PEER_HOST and PRECEPTOR_PEER_PORT to an address of this machine that is free.",
            ) from error
        self._server = uvicorn.Server(uvicorn.Config(self._app, log_level="warning", server_header=False))
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name=f"student-{name}", daemon=True
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, or will."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    @property
    def card(self) -> Card:
        """What it says of itself."""
        return self._service.card

    def move(self, weights: Trained, version: int, announce: Callable[[str], object]) -> None:
        """Answer with these weights from now on; what was begun is finished by those before. `announce` is told their
        hash when nobody is answered: who hears of them there is not answered by those before any more. What it raises
        leaves everything as it is."""
        loader = self._service.loader
        assert loader is not None, "it takes weights"
        body = loader.folder / f"version-{version}.safetensors"
        try:
            with body.open("wb") as file:
                arrays = {name: each.numpy() for name, each in weights.tensors.items()}
                for piece in body_of(arrays, weights.kind, weights.scale).pieces():
                    file.write(piece)
            update = loader.read(body, weights.kind, version, weights.scale)
            asyncio.run(put_live(self._service, loader, body, update, announce))
        finally:
            if not loader.holds(body):
                body.unlink(missing_ok=True)
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Answer nobody any more; what was begun is finished."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(STARTS_SECONDS)
            if self._thread.is_alive():
                _log.warning("the published student at %s:%d does not stop", *self.address)
        else:
            self._socket.close()
            self._service.close()
