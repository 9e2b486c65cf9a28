"""Registered teachers, and the endpoints at which they answer."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, ForeignKey, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from preceptor.wire.teachers import Card, Probe
from preceptor_services.db.columns import Base, Document, Instant


class Teacher(Base):
    """A teacher and what it says of itself. Whether runs may use it follows from its endpoints, and from `drained`."""

    __tablename__ = "teachers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    kind: Mapped[str] = mapped_column(String(40))
    drained: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """It finishes what runs need of it and takes no more."""
    card: Mapped[Card | None] = mapped_column(Document(Card))
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)
    endpoints: Mapped[list[Endpoint]] = relationship(
        order_by="(Endpoint.created_at, Endpoint.id)", lazy="selectin", cascade="all, delete-orphan"
    )
    """The first registered first; there is always one."""


class Endpoint(Base):
    """One URL at which a teacher answers, and what was last found there."""

    __tablename__ = "endpoints"
    __table_args__ = (UniqueConstraint("teacher_id", "url"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    teacher_id: Mapped[str] = mapped_column(ForeignKey("teachers.id"))
    url: Mapped[str] = mapped_column(String(2048))
    key_env: Mapped[str | None] = mapped_column(String(128))
    """The name of an environment variable. The secret itself is never kept."""
    state: Mapped[str] = mapped_column(String(20))
    """What was last found: ready, degraded or down."""
    drained: Mapped[bool] = mapped_column(Boolean, default=False)
    """It is to leave the runs that use it."""
    trouble: Mapped[str | None] = mapped_column(String(1000))
    """What was last found wrong; None: nothing."""
    probe: Mapped[Probe | None] = mapped_column(Document(Probe))
    created_at: Mapped[datetime] = mapped_column(Instant)
