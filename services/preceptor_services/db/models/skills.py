"""Skill banks. A version is the skills that were added up to it, so that none is ever copied."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, ForeignKeyConstraint, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire.skills import Usefulness
from preceptor_services.db.columns import Base, Document, Instant


class SkillBank(Base):
    """A named collection of skills."""

    __tablename__ = "skill_banks"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    description: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    """The latest version."""
    skills: Mapped[int] = mapped_column(Integer)
    """How many skills it holds."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class SkillBankVersion(Base):
    """One version of a bank."""

    __tablename__ = "skill_bank_versions"

    bank: Mapped[str] = mapped_column(ForeignKey("skill_banks.name"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    skills: Mapped[int] = mapped_column(Integer)
    """How many skills it holds, those of earlier versions included."""
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
    skill: Mapped[str] = mapped_column(Text)
    mistake: Mapped[str] = mapped_column(Text)
    task: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[list[Any]] = mapped_column(JSON)
    usefulness: Mapped[Usefulness] = mapped_column(Document(Usefulness))
    created_at: Mapped[datetime] = mapped_column(Instant)
