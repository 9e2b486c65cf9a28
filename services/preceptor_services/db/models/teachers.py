"""Registered teachers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire.teachers import Card, Probe
from preceptor_services.db.columns import Base, Document, Instant


class Teacher(Base):
    """A teacher and what was last found of it."""

    __tablename__ = "teachers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    url: Mapped[str] = mapped_column(String(2048))
    kind: Mapped[str] = mapped_column(String(40))
    key_env: Mapped[str | None] = mapped_column(String(128))
    """The name of an environment variable. The secret itself is never kept."""
    state: Mapped[str] = mapped_column(String(20))
    card: Mapped[Card | None] = mapped_column(Document(Card))
    probe: Mapped[Probe | None] = mapped_column(Document(Probe))
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)
