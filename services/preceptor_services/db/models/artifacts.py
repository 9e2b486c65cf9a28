"""Artifacts and the contents that they are made of. The bytes lie in the blob folder, under their hashes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire.artifacts import Facts, Manifest
from preceptor_services.db.columns import Base, Document, Instant


class Artifact(Base):
    """A manifest, and what opening it showed."""

    __tablename__ = "artifacts"
    __table_args__ = (Index(None, "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(71), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), index=True)
    manifest: Mapped[Manifest] = mapped_column(Document(Manifest))
    size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(20))
    facts: Mapped[Facts | None] = mapped_column(Document(Facts))
    created_at: Mapped[datetime] = mapped_column(Instant)


class Blob(Base):
    """A content that some manifest names. Whether it has arrived is the blob folder's to say.

    The size is part of its identity: a manifest that states a wrong size for a hash can never be completed, and must
    not stand in the way of the one that states the right size.
    """

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
