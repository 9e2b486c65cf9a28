"""Rollouts from a teacher's endpoints: dealt out, handed over as they are finished, asked for again where one fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from preceptor.adapters import Endpoint
from preceptor.endpoint import TeacherClient
from preceptor.errors import Interrupted, Invalid
from preceptor.persist import persist
from preceptor.replica import Replica
from preceptor.replicas import Replicas
from preceptor.routing import Want
from preceptor.wire.write import MOST_JOBS, WriteRequest, Written

POLL_SECONDS = 0.1
"""How often a wait for the next completion looks up to see whether it is still wanted."""
MOST_IDS = 1 << 20
"""Prompt ids in one request: it travels as JSON."""


def ask_for_rollouts(
    replicas: Replicas, request: WriteRequest, *, patience: float, check: Callable[[], object]
) -> Iterator[Written]:
    """Every completion as soon as some endpoint has finished it. `check` is called now and then; what it raises ends
    the work.

    What an endpoint leaves unfinished is asked for again, of whoever can, with the same seeds; nothing comes twice.
    Raises what `persist` raises.
    """
    came: SimpleQueue[Written | BaseException] = SimpleQueue()
    unwanted = threading.Event()

    def write(jobs: Sequence[int]) -> None:
        share = _Share(replicas, request, jobs, came.put, unwanted)
        try:
            persist(replicas, share.attempt, patience=patience, want=share.want)
        except BaseException as error:  # whoever waits for the completions is told
            came.put(error)

    for number, jobs in enumerate(_dealt(request, len(replicas))):
        threading.Thread(target=write, args=(jobs,), name=f"rollouts-{number}", daemon=True).start()
    try:
        for _ in request.jobs:
            yield _next(came, check)
    finally:
        unwanted.set()


def _next(came: SimpleQueue[Written | BaseException], check: Callable[[], object]) -> Written:
    while True:
        check()
        try:
            each = came.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if isinstance(each, BaseException):
            raise each
        return each


class _Share:
    """The jobs that go to one endpoint at a time, and to another where that fails."""

    def __init__(
        self,
        replicas: Replicas,
        request: WriteRequest,
        jobs: Sequence[int],
        hand_over: Callable[[Written], object],
        unwanted: threading.Event,
    ) -> None:
        self._replicas, self._request, self._left = replicas, request, list(jobs)
        self._hand_over, self._unwanted = hand_over, unwanted
        tokens = sum(len(request.prompts[request.jobs[job].prompt]) + request.jobs[job].max_tokens for job in jobs)
        self.want = Want(tokens=tokens, version=request.weights_version, pinned=request.weights_version is not None)

    def attempt(self, replica: Replica, client: Endpoint, left: float) -> None:
        """Have what is left written there."""
        tally = self._replicas.tally
        if not isinstance(client, TeacherClient):
            raise Invalid(
                "A stock server writes no rollouts for a run: it takes no weights from one.",
                remedy="Put our service in front of it: preceptor teacher serve --backend vllm --takes-weights.",
            )
        if not self._left:
            return  # all had come before the connection broke
        names = list(self._left)
        tally.sent_to(replica.url)
        began = time.monotonic()
        try:
            for written in client.write(_part(self._request, names), timeout=left, count=tally.count):
                if self._unwanted.is_set():
                    raise Interrupted("Its rollouts are not wanted any more.", teacher=self._replicas.name)
                job = names[written.job]
                self._left.remove(job)
                tally.count(sequences=1, tokens=len(written.token_ids))
                tally.saw(written.weights_version)
                self._hand_over(written.model_copy(update={"job": job}))
        finally:
            tally.count(seconds=time.monotonic() - began)


def _part(request: WriteRequest, names: Sequence[int]) -> WriteRequest:
    """The same request for some of its jobs, with the prompts that they need."""
    jobs = [request.jobs[name] for name in names]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(job.prompt for job in jobs))}
    return request.model_copy(
        update={
            "prompts": tuple(request.prompts[prompt] for prompt in places),
            "jobs": tuple(job.model_copy(update={"prompt": places[job.prompt]}) for job in jobs),
        }
    )


def _dealt(request: WriteRequest, endpoints: int) -> Iterator[Sequence[int]]:
    """Jobs in shares of neighbours: one an endpoint, more where a request would be too large."""
    count, ids = len(request.jobs), sum(map(len, request.prompts))
    shares = min(count, max(endpoints, -(-count // MOST_JOBS), -(-ids // MOST_IDS)))
    size = -(-count // shares)
    return (range(count)[start : start + size] for start in range(0, count, size))
