"""Skill banks. A version is the skills that came up to it and had not gone by then, so that none is ever copied."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire import skills as wire
from preceptor_services.db.columns import Base, Document, Instant


class SkillBank(Base):
    """A named collection of skills."""

    __tablename__ = "skill_banks"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    description: Mapped[str] = mapped_column(Text)
    task: Mapped[str | None] = mapped_column(String(100))
    embedder: Mapped[str] = mapped_column(String(100), server_default="ngrams-1")
    duplicate_above: Mapped[float | None] = mapped_column(Float)
    cap: Mapped[int | None] = mapped_column(Integer)
    version: Mapped[int] = mapped_column(Integer)
    """The latest version. Whoever makes the next locks this row first."""
    skills: Mapped[int] = mapped_column(Integer)
    """How many skills it holds."""
    last_number: Mapped[int] = mapped_column(Integer, server_default="0")
    """The last number that was given to a skill."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class SkillBankVersion(Base):
    """One version of a bank."""

    __tablename__ = "skill_bank_versions"
    __table_args__ = (Index(None, "bank", "run_id", "step", unique=True),)

    bank: Mapped[str] = mapped_column(ForeignKey("skill_banks.name"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    skills: Mapped[int] = mapped_column(Integer)
    """How many skills it holds, those of earlier versions included."""
    run_id: Mapped[str | None] = mapped_column(String(100))
    """The run that published it, with its step. It may be another control plane's: no foreign key."""
    step: Mapped[int | None] = mapped_column(Integer)
    record: Mapped[wire.SkillBankVersion | None] = mapped_column(Document(wire.SkillBankVersion))
    """How it came to be, as it was answered; None: from before that was kept."""
    created_at: Mapped[datetime] = mapped_column(Instant)


class Skill(Base):
    """A skill-mistake pair."""

    __tablename__ = "skills"
    __table_args__ = (
        ForeignKeyConstraint(["bank", "version"], ["skill_bank_versions.bank", "skill_bank_versions.version"]),
    )

    bank: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    """1, 2 ... within its bank, in the order in which they were added."""
    version: Mapped[int] = mapped_column(Integer, index=True)
    """The version that brought it."""
    gone: Mapped[int | None] = mapped_column(Integer)
    """The version that left it out."""
    skill: Mapped[str] = mapped_column(Text)
    mistake: Mapped[str] = mapped_column(Text)
    task: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[list[Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant)


class SkillSource(Base):
    """Where a skill was learned; and, for one that was folded into it, in which words that one said it."""

    __tablename__ = "skill_sources"
    __table_args__ = (ForeignKeyConstraint(["bank", "number"], ["skills.bank", "skills.number"]),)

    bank: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    """1, 2 ... within its skill."""
    version: Mapped[int] = mapped_column(Integer)
    """The version that brought it."""
    run_id: Mapped[str | None] = mapped_column(String(100))
    step: Mapped[int | None] = mapped_column(Integer)
    rollout: Mapped[str | None] = mapped_column(String(200))
    task: Mapped[str | None] = mapped_column(String(200))
    skill: Mapped[str | None] = mapped_column(Text)
    """The other words; None: the skill's own."""
    mistake: Mapped[str | None] = mapped_column(Text)


class SkillEmbedding(Base):
    """A skill's vector: int8, as `preceptor.skills.embedding.vectors` makes it."""

    __tablename__ = "skill_embeddings"
    __table_args__ = (ForeignKeyConstraint(["bank", "number"], ["skills.bank", "skills.number"]),)

    bank: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    embedder: Mapped[str] = mapped_column(String(100), primary_key=True)
    vector: Mapped[bytes] = mapped_column(LargeBinary)


class SkillUse(Base):
    """What came of a skill in one step of a run: see `preceptor.wire.skills.SkillUse`."""

    __tablename__ = "skill_uses"
    __table_args__ = (ForeignKeyConstraint(["bank", "number"], ["skills.bank", "skills.number"]),)

    bank: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(String(100), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
    shown: Mapped[int] = mapped_column(BigInteger)
    shown_right: Mapped[int] = mapped_column(BigInteger)
    plain: Mapped[int] = mapped_column(BigInteger)
    plain_right: Mapped[int] = mapped_column(BigInteger)
    right_n: Mapped[int] = mapped_column(BigInteger)
    right_total: Mapped[float] = mapped_column(Float)
    right_squares: Mapped[float] = mapped_column(Float)
    wrong_n: Mapped[int] = mapped_column(BigInteger)
    wrong_total: Mapped[float] = mapped_column(Float)
    wrong_squares: Mapped[float] = mapped_column(Float)
    at: Mapped[datetime] = mapped_column(Instant)
