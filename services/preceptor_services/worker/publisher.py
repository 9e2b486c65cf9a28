"""Sends a moving self-teacher its weights, at every endpoint that it had when the run was taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx
import torch

from preceptor.endpoint import TeacherClient
from preceptor.errors import (
    Conflict,
    Interrupted,
    Invalid,
    Overloaded,
    PreceptorError,
    ServerFault,
    TeacherRefused,
    TeacherUnavailable,
    Unreachable,
)
from preceptor.opening import opener
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.weights import WeightsKind

PASSING = (Unreachable, Overloaded, ServerFault)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class WeightsPublisher:
    """The loop's `Publisher`. All endpoints of a teacher get the same version number, one more than any has."""

    def __init__(
        self,
        teachers: Mapping[str, TeacherEndpoint],
        deadline: float,
        *,
        stopping: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`deadline`: seconds in which a teacher must have taken the weights, however often it is asked."""
        self._teachers = teachers
        self._deadline = deadline
        self._stopping, self._sleep, self._transport = stopping, sleep, transport
        self._clients: dict[str, Sequence[TeacherClient]] = {}

    def publish(self, role: str, weights: Mapping[str, torch.Tensor], kind: WeightsKind, scale: float | None) -> None:
        """Returns once they are live everywhere.

        Raises TeacherRefused (they do not fit, or it takes none), TeacherUnavailable, and Interrupted when it is told
        to stop while nobody answers.
        """
        name = self._teachers[role].name
        arrays = {key: each.numpy() for key, each in weights.items()}
        clients = self._open(role)
        live = [self._persist(name, client, lambda client=client: client.card().weights_version) for client in clients]
        version = 1 + max(live)
        for client in clients:

            def load(client: TeacherClient = client) -> None:
                try:
                    client.load_weights(arrays, kind=kind, version=version, scale=scale, timeout=self._deadline)
                except Conflict:
                    if client.card().weights_version != version:  # else the answer to an earlier attempt was lost
                        raise

            self._persist(name, client, load)
        _log.info("teacher %s: weights version %d is live", name, version)

    def close(self) -> None:
        """Close the connections."""
        for clients in self._clients.values():
            for client in clients:
                client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, role: str) -> Sequence[TeacherClient]:
        if role not in self._clients:
            teacher = self._teachers[role]
            open_ = opener(teacher)
            first = ReplicaAddress(url=teacher.url, key_env=teacher.key_env)
            found = [open_(address, self._transport) for address in (first, *teacher.replicas)]
            clients = [each for each in found if isinstance(each, TeacherClient)]
            if len(clients) < len(found):
                raise Invalid(
                    f"teachers.{role}: teacher {teacher.name} is no Preceptor teacher, and takes no weights.",
                    field=f"teachers.{role}",
                )
            self._clients[role] = clients
        return self._clients[role]

    def _persist(self, name: str, client: TeacherClient, attempt: Callable[[], Answer]) -> Answer:
        end, pause = time.monotonic() + self._deadline, FIRST_PAUSE
        while True:
            try:
                return attempt()
            except PASSING as error:
                if time.monotonic() + pause >= end:
                    raise TeacherUnavailable(
                        f"Teacher '{name}' at {client.url} did not take new weights in {self._deadline:g} s. "
                        f"Last: {error}",
                        teacher=name,
                        remedy="Check that it runs, then resume the run.",
                    ) from error
                if self._stopping():
                    raise Interrupted(
                        f"Sending weights to teacher '{name}' was broken off: the job is to stop. Last: {error}",
                        teacher=name,
                    ) from error
                self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except PreceptorError as error:
                problem = error.problem
                raise TeacherRefused(
                    f"Teacher '{name}' at {client.url} refused new weights: {problem.detail}",
                    teacher=name,
                    field=problem.field,
                    remedy=problem.remedy or "Serve the student's own model there, with --takes-weights.",
                ) from error
