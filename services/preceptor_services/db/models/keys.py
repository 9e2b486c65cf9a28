"""Keys: only the hash of a secret is kept."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from preceptor_services.db.columns import Base, Instant


class Key(Base):
    """A key to the control plane."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(String(10))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of the secret: ours have 256 random bits, so that no slower hash would add anything."""
    preset: Mapped[str | None] = mapped_column(String(20), unique=True)
    """Which setting it came from (`admin`, `worker`); None: it was made over the API."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    last_used_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
