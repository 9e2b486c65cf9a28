"""Who fills a run's roles, where that changes while the run goes on."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from preceptor.wire.common import Step, Wire


class Refill(Wire):
    """A wish: other teachers for some roles of a run."""

    teachers: dict[str, str | None] = Field(min_length=1)
    """Which registered teacher fills each of these roles from now on; None: nobody does. Others stay as they are."""


class Refilled(Wire):
    """A role of a run that another teacher fills than before."""

    role: str
    """The role."""
    left: str | None = None
    """Who filled it until then; None: nobody."""
    joined: str | None = None
    """Who fills it since; None: nobody."""
    at: datetime
    """When it was asked for."""
    step: Step | None = None
    """The first step that `joined` was asked in; None: no such step has been done."""
