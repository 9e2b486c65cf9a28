"""Whether the control plane lives, and whether it can work. The only endpoints that need no key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from sqlalchemy import text

from preceptor.wire.common import Wire
from preceptor_services.api.deps import PlaneDep

ROUTER = APIRouter(tags=["health"])


class Health(Wire):
    """The answer of somebody who is well."""

    status: Literal["ok"] = "ok"
    """There is no other: what is not well answers with a problem."""


@ROUTER.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@ROUTER.get("/readyz")
def readyz(plane: PlaneDep) -> Health:
    """The database answers too."""
    with plane.database.unit(writes=False) as unit:
        unit.session.execute(text("SELECT 1"))
    return Health()
