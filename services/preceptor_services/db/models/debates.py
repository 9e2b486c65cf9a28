"""Debates, what was said in them, and the templates they are worded by."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire import debates as wire
from preceptor_services.db.columns import Base, Document, Instant
from preceptor_services.db.models.jobs import Job


class DebateTemplate(Base):
    """A version of a template. Those that come with Preceptor are not stored."""

    __tablename__ = "debate_templates"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64))
    template: Mapped[wire.DebateTemplate] = mapped_column(Document(wire.DebateTemplate))
    created_at: Mapped[datetime] = mapped_column(Instant)


class Debate(Job):
    """A debate as it is now."""

    __tablename__ = "debates"
    __table_args__ = (
        UniqueConstraint("created_by", "idempotency_key"),
        Index(None, "created_at", "id"),
        Index(None, "state", "lease_until"),
        Index(None, "cache_key"),
    )

    wish: Mapped[wire.DebateCreate] = mapped_column(Document(wire.DebateCreate))
    template: Mapped[wire.StoredTemplate] = mapped_column(Document(wire.StoredTemplate))
    """The wording with the overrides merged in."""
    cache_key: Mapped[str | None] = mapped_column(String(64))
    """Of the question, the teachers' versions, the wording and the rules; None: it is not to be given out again."""
    cached_from: Mapped[str | None] = mapped_column(ForeignKey("debates.id"))
    """The debate that was held in its stead, and has the turns."""
    result: Mapped[wire.DebateResult | None] = mapped_column(Document(wire.DebateResult))


class RunDebate(Base):
    """A debate that a run held for itself. The first that is recorded of a place in the run stays."""

    __tablename__ = "run_debates"
    __table_args__ = (UniqueConstraint("run_id", "step", "context", "task", "rollout"),)

    debate_id: Mapped[str] = mapped_column(ForeignKey("debates.id"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    step: Mapped[int] = mapped_column(Integer)
    context: Mapped[str] = mapped_column(String(100))
    task: Mapped[str] = mapped_column(String(100))
    rollout: Mapped[int] = mapped_column(BigInteger)
    voices: Mapped[dict[str, wire.Voice]] = mapped_column(Document(dict[str, wire.Voice]))
    """Who spoke, by debater."""


class DebateTurn(Base):
    """What one debater said in one round. The first that is recorded stays."""

    __tablename__ = "debate_turns"

    debate_id: Mapped[str] = mapped_column(ForeignKey("debates.id"), primary_key=True)
    round: Mapped[int] = mapped_column(Integer, primary_key=True)
    debater: Mapped[str] = mapped_column(String(100), primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant)
    fence: Mapped[int] = mapped_column(BigInteger)
    """The lease that recorded it."""
    turn: Mapped[wire.DebateTurn] = mapped_column(Document(wire.DebateTurn))
