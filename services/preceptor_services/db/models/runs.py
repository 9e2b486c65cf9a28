"""Runs and everything that is recorded of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from preceptor.wire import runs as wire
from preceptor.wire.data import DataSpec
from preceptor_services.db.columns import Base, Document, Instant
from preceptor_services.db.models.jobs import Job


class Run(Job):
    """A run as it is now. How it came to be so stands in its transitions and events."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("created_by", "idempotency_key"),
        Index(None, "created_at", "id"),
        Index(None, "state", "lease_until"),
    )

    name: Mapped[str] = mapped_column(String(100), index=True)
    recipe: Mapped[str] = mapped_column(String(200), index=True)
    overrides: Mapped[dict[str, Any]] = mapped_column(JSON)
    resolved: Mapped[dict[str, Any]] = mapped_column(JSON)
    recipe_sha256: Mapped[str | None] = mapped_column(String(64))
    """Of the recipe's own file; none where it is shipped."""
    student: Mapped[str] = mapped_column(ForeignKey("artifacts.id"))
    data: Mapped[DataSpec] = mapped_column(Document(DataSpec))
    training: Mapped[wire.Training] = mapped_column(Document(wire.Training))
    alignment: Mapped[wire.Alignment] = mapped_column(String(10), default="ids")
    skills: Mapped[str | None] = mapped_column(String(120))
    """The version of a skill bank that it reads, as `bank@version`."""
    step: Mapped[int] = mapped_column(Integer, default=0)
    result: Mapped[wire.RunResult | None] = mapped_column(Document(wire.RunResult))
    pause_requested: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())

    checkpoint_step: Mapped[int | None] = mapped_column(Integer)
    checkpoint_artifact: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    last_event: Mapped[int] = mapped_column(BigInteger, default=0)
    """Number of the latest event. Counted here, under the row's lock, so that a reader who has seen event n has seen
    all before it, which an auto-increment shared by concurrent transactions cannot promise."""


class RunTeacher(Base):
    """Which teacher fills a role of a run. By name: a run outlives the registration of its teachers."""

    __tablename__ = "run_teachers"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(100), primary_key=True)
    teacher: Mapped[str] = mapped_column(String(100), index=True)
    fallback: Mapped[str | None] = mapped_column(String(100), index=True)
    """The teacher that is asked where this one gives no answer."""


class Refill(Base):
    """A role of a run that another teacher fills than before. By name, as in RunTeacher."""

    __tablename__ = "refills"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    """1, 2 ... within its run."""
    role: Mapped[str] = mapped_column(String(100))
    left: Mapped[str | None] = mapped_column("teacher_left", String(100), index=True)
    """Who filled it until then."""
    joined: Mapped[str | None] = mapped_column("teacher_joined", String(100))
    """Who fills it since."""
    at: Mapped[datetime] = mapped_column(Instant)
    fence: Mapped[int] = mapped_column(BigInteger)
    """The run's lease at that moment: its worker was told of whoever filled the role when it was taken."""
    step: Mapped[int | None] = mapped_column(Integer)
    """The first step that `joined` was asked in."""
    created_by: Mapped[str] = mapped_column(ForeignKey("keys.id"))


class Transition(Base):
    """A change of a run's state."""

    __tablename__ = "transitions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    from_state: Mapped[str | None] = mapped_column(String(20))
    """None: it was just created."""
    to_state: Mapped[str] = mapped_column(String(20))
    at: Mapped[datetime] = mapped_column(Instant)
    reason: Mapped[str] = mapped_column(String(1000))
    fence: Mapped[int] = mapped_column(BigInteger)


class Step(Base):
    """An optimizer step: recorded once, whatever is computed again after a worker was lost."""

    __tablename__ = "steps"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant)
    fence: Mapped[int] = mapped_column(BigInteger)
    """The lease that recorded it."""
    report: Mapped[wire.StepReport] = mapped_column(Document(wire.StepReport))


class Sample(Base):
    """A rollout that was kept, with its per-token scores."""

    __tablename__ = "samples"
    __table_args__ = (ForeignKeyConstraint(["run_id", "step"], ["steps.run_id", "steps.step"]),)

    run_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    """0, 1 ... within its step."""
    sample: Mapped[wire.Sample] = mapped_column(Document(wire.Sample))


class Evaluation(Base):
    """The student on held-out tasks, after a step."""

    __tablename__ = "evaluations"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant)
    evaluation: Mapped[wire.Evaluation] = mapped_column(Document(wire.Evaluation))


class Event(Base):
    """Something that happened to a run: what its stream sends."""

    __tablename__ = "events"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """1, 2 ... within its run."""
    at: Mapped[datetime] = mapped_column(Instant)
    kind: Mapped[str] = mapped_column(String(20))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
