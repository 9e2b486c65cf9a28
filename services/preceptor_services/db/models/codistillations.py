"""Pairs of runs that teach each other, and the versions of their students that were given out."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire import pairs as wire
from preceptor_services.db.columns import Base, Document, Instant
from preceptor_services.db.models.jobs import Wished


class Codistillation(Wished):
    """A pair. Where it is in its life its two runs say."""

    __tablename__ = "codistillations"
    __table_args__ = (UniqueConstraint("created_by", "idempotency_key"),)

    name: Mapped[str] = mapped_column(String(100), index=True)
    policy: Mapped[wire.PairPolicy] = mapped_column(Document(wire.PairPolicy))
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class CodistillationSide(Base):
    """One of the two runs."""

    __tablename__ = "codistillation_sides"

    codistillation_id: Mapped[str] = mapped_column(ForeignKey("codistillations.id"), primary_key=True)
    side: Mapped[str] = mapped_column(String(1), primary_key=True)
    """`a` or `b`."""
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), unique=True)
    teacher: Mapped[str] = mapped_column(String(100), unique=True)
    """What its student is registered as."""
    teaches: Mapped[list[str]] = mapped_column(JSON)
    url: Mapped[str | None] = mapped_column(String(2048))
    """Where its student was last said to answer; None: it never was."""
    done_fence: Mapped[int] = mapped_column(BigInteger, default=0)
    """The lease under which it has done all its steps; 0: it has not."""


class Publication(Base):
    """A version of a run's student that was given out: once, whatever is computed again."""

    __tablename__ = "publications"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    step: Mapped[int] = mapped_column(Integer)
    fence: Mapped[int] = mapped_column(BigInteger)
    """The lease that published it."""
    at: Mapped[datetime] = mapped_column(Instant)
    publication: Mapped[wire.Publication] = mapped_column(Document(wire.Publication))
