"""A run's own weights, sent to every endpoint of the teacher that moves with it.

Versions are counted upwards from the newest that an endpoint has. A number that is taken already, and not by what we
sent, means that somebody else moves this teacher too, and is refused: a run would learn from weights that are not its.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from preceptor.endpoint import TeacherClient
from preceptor.errors import Conflict, Interrupted, PreceptorError, ServerFault, TeacherRefused, TeacherUnavailable
from preceptor.persist import FIRST_PAUSE, LONGEST_PAUSE
from preceptor.replica import Replica, may_pass
from preceptor.replicas import Replicas
from preceptor.weights import Body, body_of

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What is sent."""

    body: Body
    version: int
    whole: Body | None
    """What an adapter was made for."""


class Publisher:
    """Sends weights to one teacher. Safe to share between threads: one version is sent at a time."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._turn = threading.Lock()
        self._bases: dict[Path, tuple[Body, str | None]] = {}
        self._took: set[Replica] = set()
        """Took the last body whole: none of the next is there yet."""
        self.version: int | None = None
        """The last that was sent. An answer of a version below it is of weights that the run has left behind."""

    def publish(self, body: Body, base: Path | None = None) -> int:
        """Returns the version when every endpoint that can be reached serves it; at least one must.

        base: for an adapter, the folder that it was made for, which is sent first where the teacher's last full weights
        are others. Raises TeacherRefused (the teacher's sentence, or somebody else moves it), TeacherUnavailable and
        Interrupted.
        """
        with self._turn:
            whole, hash = (None, None) if base is None else self._base(base)
            body = replace(body, base=hash)
            if self.version is None:
                # Below an adapter's number there is room for its base's.
                version = self._reach(self._newest) + (1 if whole is None else 2)
            else:
                version = self.version + 1
            parcel = _Parcel(body, version, whole)
            self._reach(lambda replica: self._send(replica, parcel))
            self.version = version
            self._replicas.moved_to(version)
            for replica in self._replicas:
                replica.card = None  # what was known of it is of the version before
            return version

    def _base(self, folder: Path) -> tuple[Body, str | None]:
        if folder not in self._bases:
            body = body_of(folder)
            self._bases = {folder: (body, body.hash())}
        return self._bases[folder]

    def _newest(self, replica: Replica) -> int:
        return self._with(replica, lambda client: client.card().weights_version)

    def _send(self, replica: Replica, parcel: _Parcel) -> int:
        try:
            return self._send_one(replica, parcel.body, parcel.version)
        except Conflict as error:
            if error.problem.field == "base" and parcel.whole is not None:
                self._send_one(replica, parcel.whole, parcel.version - 1)
                return self._send_one(replica, parcel.body, parcel.version)
            # The answer to an attempt before this one may have been lost.
            card = self._with(replica, lambda client: client.card())
            if card.weights_version == parcel.version and card.weights_hash == parcel.body.hash():
                return parcel.version
            raise TeacherRefused(
                f"Teacher '{self._replicas.name}' at {replica.url} is at weights version {card.weights_version} where "
                f"this run was about to send {parcel.version}: somebody else moves it too.",
                teacher=self._replicas.name,
                remedy="Give each run that moves its teacher a teacher of its own, then resume this one.",
            ) from error

    def _send_one(self, replica: Replica, body: Body, version: int) -> int:
        self._replicas.tally.count(weights_bytes=body.size)
        goes_on, timeout = replica not in self._took, self._replicas.means.deadline
        self._took.discard(replica)
        version = self._with(
            replica, lambda client: client.send_weights(body, version, goes_on=goes_on, timeout=timeout).weights_version
        )
        self._took.add(replica)
        return version

    def _with(self, replica: Replica, ask: Callable[[TeacherClient], _Answer]) -> _Answer:
        dialled = replica.borrow()
        try:
            if not isinstance(dialled.client, TeacherClient):
                raise TeacherRefused(
                    f"Teacher '{self._replicas.name}' is a stock server, which takes no weights from a run.",
                    teacher=self._replicas.name,
                    remedy="Put our service in front of it: preceptor teacher serve --backend vllm --takes-weights.",
                )
            return ask(dialled.client)
        finally:
            replica.give_back(dialled)

    def _reach(self, ask: Callable[[Replica], int]) -> int:
        """The largest answer. Who cannot be reached is left behind where somebody else can."""
        means, name = self._replicas.means, self._replicas.name
        end, rounds = means.clock() + means.deadline, 0
        while True:
            answers, failure = self._round(ask)
            if answers:
                return max(answers)
            rounds += 1
            pause = min(FIRST_PAUSE * 2 ** min(rounds - 1, 16), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            if means.clock() + pause >= end:
                raise TeacherUnavailable(
                    f"Teacher '{name}' took no weights in {means.deadline:g} s. Last: {failure}",
                    teacher=name,
                    remedy="Check that it runs, then resume the run.",
                ) from failure
            if means.stopping():
                raise Interrupted(f"Sending weights to teacher '{name}' was broken off.", teacher=name) from failure
            self._replicas.tally.count(retries=1, waited_seconds=pause)
            self._replicas.pause(pause)

    def _round(self, ask: Callable[[Replica], int]) -> tuple[list[int], PreceptorError | None]:
        """One attempt at every endpoint that is not known to be away, at the same time."""
        everyone = list(self._replicas)
        asked = [each for each in everyone if not each.free_in] or everyone
        answers, failure = list[int](), None
        with ThreadPoolExecutor(len(asked), thread_name_prefix="publish") as threads:
            for replica, future in [(each, threads.submit(ask, each)) for each in asked]:
                try:
                    answers.append(future.result())
                    replica.answered({})
                except TeacherRefused:
                    raise
                except PreceptorError as error:
                    replica.failed(error)
                    if not may_pass(error):
                        raise self._refusal(error) from error
                    failure = error
        return answers, failure

    def _refusal(self, error: PreceptorError) -> PreceptorError:
        name, problem = self._replicas.name, error.problem
        if isinstance(error, ServerFault):
            return TeacherUnavailable(problem, teacher=name)
        return TeacherRefused(
            f"Teacher '{name}' refused this run's weights: {problem.detail}",
            teacher=name,
            field=problem.field,
            remedy=problem.remedy or "Serve the student's own model there.",
        )
