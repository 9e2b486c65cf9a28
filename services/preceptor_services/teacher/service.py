"""What the teacher's endpoints share: the backend, the queue in front of it, the card, the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request

from preceptor.errors import Conflict, Invalid
from preceptor.wire.score import Numbers, ScoreRequest, context_hash
from preceptor.wire.teachers import Card, Limits, Stamp, Values
from preceptor_services.teacher.backends import About, Backend, writer_of
from preceptor_services.teacher.head import Heads
from preceptor_services.teacher.jobs import Done, Job, Passes, Whole, Work
from preceptor_services.teacher.loader import Loader
from preceptor_services.teacher.merging import Begun, Merging, advance_of
from preceptor_services.teacher.scheduler import Scheduler
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
        self.loaded = counter("loaded_weights", "Versions of the weights that were loaded.")
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
    heads: Heads
    loader: Loader | None
    """None: it takes no weights."""
    started: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    @classmethod
    def of(cls, backend: Backend, settings: TeacherSettings) -> Service:
        """A teacher with an empty queue. Raises Invalid where it should take weights, and its backend cannot."""
        meters = Meters()
        scheduler = Scheduler(
            settings.teacher_max_queue,
            lanes=backend.about.lanes,
            advance=advance_of(backend),
            pass_tokens=backend.pass_tokens if isinstance(backend, Merging) else 1,
            watch=meters.queue.set,
        )
        head = backend.about.head
        heads = Heads(None if head is None else head.hash, backend.head())
        return cls(backend, settings, meters, scheduler, heads, _loader(backend, settings))

    def close(self) -> None:
        """Finish what was taken, and delete what was written."""
        self.scheduler.close()
        if self.loader is not None:
            self.loader.close()

    @property
    def card(self) -> Card:
        """What the teacher says of itself, now."""
        about, settings = self.backend.about, self.settings
        return Card(
            teacher=settings.teacher_name,
            model=about.model,
            weights_version=about.weights_version,
            weights_hash=about.weights_hash,
            moves=self.loader is not None,
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
                max_new_tokens=None if self.backend.text is None else settings.teacher_max_new_tokens,
            ),
            supports=about.supports,
            head=about.head and about.head.model_copy(update={"frozen": settings.teacher_frozen_head}),
            generates=self.backend.text is not None,
            writes=writer_of(self.backend) is not None,
            values=Values.RAW,
        )

    def check_version(self, wanted: int | None) -> About:
        """What will answer. Raises Conflict where the version that is asked for is not the live one."""
        about = self.backend.about
        if wanted not in (None, about.weights_version):
            raise Conflict(
                f"weights_version: {wanted} is gone; this teacher is at {about.weights_version}.",
                field="weights_version",
                remedy="Ask for the live version, or leave it out.",
            )
        return about

    def scoring(self, request: ScoreRequest, job: Job) -> Work[Scored]:
        """The work that gives numbers, and says whose they are: no weights change under it once it has begun.

        Raises Conflict, in its turn, where the version that it asks for went while it waited.
        """
        backend, wanted = self.backend, request.weights_version
        if not isinstance(backend, Merging):
            # The version first: a backend's is the live one only while it scores.
            return Whole(lambda: Scored(about=self.check_version(wanted), numbers=backend.score(request, job.check)))

        def begin() -> Begun:
            about = self.check_version(wanted)
            return Begun(backend.begin(request), about)

        def finish(begun: Begun) -> Scored:
            return Scored(backend.numbers(begun.part), begun.about)

        return Passes(begin, finish, tokens=request.tokens, bytes=backend.answer_bytes(request))

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

    async def run(self, request: Request, job: Job, work: Work[Result]) -> Done[Result]:
        """Do blocking work in its turns, and give it up when the caller goes away."""
        async with watched(request, job):
            done = await self.scheduler.run(job, work)
        self.meters.queued.observe(done.queued_seconds)
        self.meters.computed.observe(done.computed_seconds)
        return done


def _loader(backend: Backend, settings: TeacherSettings) -> Loader | None:
    if not settings.teacher_takes_weights:
        return None
    layout = backend.layout()
    if layout is None:
        raise Invalid(f"takes_weights: {backend.about.engine} cannot load other weights.", field="takes_weights")
    return Loader(backend, layout, frozen_head=settings.teacher_frozen_head, spool=settings.teacher_weights_dir)


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
