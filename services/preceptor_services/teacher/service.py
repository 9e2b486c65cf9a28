"""What the teacher's endpoints share: the backend, the queue in front of it, the card, the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request

from preceptor.errors import Conflict
from preceptor.wire.score import Numbers, ScoreRequest, context_hash
from preceptor.wire.teachers import Card, Limits, Stamp, Values
from preceptor_services.teacher.backends import About, Backend
from preceptor_services.teacher.scheduler import Done, Job, Scheduler
from preceptor_services.teacher.settings import TeacherSettings

Result = TypeVar("Result")


class Meters:
    """Prometheus counters of one teacher, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"preceptor_teacher_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str) -> Histogram:
            bounds = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
            return Histogram(f"preceptor_teacher_{name}", what, buckets=bounds, registry=self.registry)

        self.requests = counter("requests", "Requests answered.", "endpoint", "status")
        self.sequences = counter("sequences", "Completions scored.")
        self.tokens = counter("scored_tokens", "Completion tokens scored.")
        self.written = counter("written_tokens", "Tokens written.")
        self.received = counter("received_bytes", "Bytes of request bodies.")
        self.sent = counter("sent_bytes", "Bytes of score answers.")
        self.queue = Gauge("preceptor_teacher_queue", "Requests that wait or run.", registry=self.registry)
        self.queued = histogram("queued_seconds", "Seconds that requests waited.")
        self.computed = histogram("computed_seconds", "Seconds that requests were worked on.")


@dataclass(frozen=True, slots=True)
class Scored:
    """What was computed, and what computed it."""

    numbers: Numbers
    about: About


@dataclass(frozen=True, slots=True)
class Service:
    """One teacher."""

    backend: Backend
    settings: TeacherSettings
    meters: Meters
    scheduler: Scheduler
    started: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    @classmethod
    def of(cls, backend: Backend, settings: TeacherSettings) -> Service:
        """A teacher with an empty queue."""
        meters = Meters()
        return cls(backend, settings, meters, Scheduler(settings.teacher_max_queue, watch=meters.queue.set))

    @property
    def card(self) -> Card:
        """What the teacher says of itself, now."""
        about, settings = self.backend.about, self.settings
        return Card(
            teacher=settings.teacher_name,
            model=about.model,
            weights_version=about.weights_version,
            weights_hash=about.weights_hash,
            engine=about.engine,
            device=about.device,
            dtype=about.dtype,
            tokenizer=about.tokenizer,
            tokenizer_file=None if about.tokenizer_file is None else about.tokenizer_file.hash,
            limits=Limits(
                max_tokens=about.max_tokens,
                max_batch_tokens=max(settings.teacher_max_batch_tokens, about.max_tokens),
                max_k=min(settings.teacher_max_k, about.tokenizer.vocab_size if about.max_k is None else about.max_k),
                max_body_bytes=settings.teacher_max_body_bytes,
            ),
            supports=about.supports,
            head=about.head,
            generates=self.backend.text is not None,
            values=Values.RAW,
        )

    def check_version(self, request: ScoreRequest) -> About:
        """What will answer it. Raises Conflict where the version that it asks for is not the live one."""
        about = self.backend.about
        if request.weights_version not in (None, about.weights_version):
            raise Conflict(
                f"weights_version: {request.weights_version} is gone; this teacher is at {about.weights_version}.",
                field="weights_version",
                remedy="Ask for the live version, or leave it out.",
            )
        return about

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Scored:
        """Numbers, and whose they are. Only where the model computes: there no weights change under a request.

        Raises Conflict where the version that it asks for went while it waited.
        """
        about = self.check_version(request)
        return Scored(self.backend.score(request, between), about)

    def stamp(self, request: ScoreRequest, done: Done[Scored]) -> Stamp:
        """Who said it, and how: the version that computed it, whichever is live now."""
        about = done.result.about
        return Stamp(
            teacher=self.settings.teacher_name,
            model=about.model,
            weights_version=about.weights_version,
            head_hash=None if about.head is None else about.head.hash,
            engine=about.engine,
            device=about.device,
            dtype=about.dtype,
            temperature=request.temperature,
            values=Values.RAW,
            context_hashes=tuple(context_hash(ids) for ids in request.contexts),
            queued_seconds=done.queued_seconds,
            computed_seconds=done.computed_seconds,
            prefix_hits=done.result.numbers.prefix_hits,
        )

    async def run(self, request: Request, job: Job, work: Callable[[], Result]) -> Done[Result]:
        """Do blocking work in its turn, and give it up when the caller goes away."""
        async with watched(request, job):
            done = await self.scheduler.run(job, work)
        self.meters.queued.observe(done.queued_seconds)
        self.meters.computed.observe(done.computed_seconds)
        return done


@asynccontextmanager
async def watched(request: Request, job: Job) -> AsyncIterator[None]:
    """While inside, a caller that disconnects sets `job.gone`. The request's body must have been read."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
