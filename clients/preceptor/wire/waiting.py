"""Why a run that is queued has not begun, as far as the control plane knows: it sees leases, and no idle worker."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from preceptor.wire.common import Count, Wire

MOST_BUSY = 8
"""Workers that are named."""


class Busy(Wire):
    """A worker, and the run that it has a lease on."""

    worker: str
    """Who."""
    run: str
    """The run's id."""


class Waiting(Wire):
    """A queued run waits for a free worker."""

    since: datetime
    """When it was queued last."""
    sent: bool
    """Whether the broker has taken the message for it; where not, it is sent again every few seconds."""
    devices: Count
    """Devices that its worker must have (`training.devices`)."""
    ahead: Count
    """Queued runs that were submitted before it."""
    busy: tuple[Busy, ...] = Field(default=(), max_length=MOST_BUSY)
    """Workers that have a run now, the longest at it first; the first few."""
    detail: str
    """All that in a sentence or two, with what to do."""
