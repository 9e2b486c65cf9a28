"""What wishes become, and those of these that wait for a worker: jobs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire.common import Problem
from preceptor_services.db.columns import Base, Document, Instant

QUEUED, RUNNING = "queued", "running"
"""What the state of any job is called while it waits, and while a worker has it."""


class Wished(Base):
    """What somebody's wish became: the same wish under the same idempotency key becomes it once."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_by: Mapped[str] = mapped_column(ForeignKey("keys.id"))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    request_hash: Mapped[str] = mapped_column(String(64))
    """Hash of the wish: tells a repeated one from another under the same idempotency key."""


class Job(Wished):
    """What one worker at a time does: see `api/leasing.py`."""

    __abstract__ = True

    state: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[Problem | None] = mapped_column(Document(Problem))
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)

    worker: Mapped[str | None] = mapped_column(String(200))
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[datetime | None] = mapped_column(Instant)
    enqueued_at: Mapped[datetime | None] = mapped_column(Instant)
    """When a message for it was last sent; None while it is queued: none was, or the broker did not take it."""
