"""Keys over HTTP. All of it needs scope admin."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body

from preceptor.wire.keys import Key, KeyCreate, KeyCreated
from preceptor_services.api.deps import Admin, PlaneDep, UnitDep, router
from preceptor_services.api.keys import service

ROUTER = router("keys")
_WISH = Body(openapi_examples={"worker": {"summary": "For a worker", "value": {"name": "gpu-1", "scope": "run"}}})


@ROUTER.post("/keys", status_code=201)
def create_key(wish: Annotated[KeyCreate, _WISH], caller: Admin, plane: PlaneDep, unit: UnitDep) -> KeyCreated:
    """Make a key. Its secret is in this answer and nowhere else."""
    return service.create(unit.session, wish, plane.clock())


@ROUTER.get("/keys")
def list_keys(caller: Admin, unit: UnitDep) -> tuple[Key, ...]:
    """All keys, revoked ones included, oldest first."""
    return service.every(unit.session)


@ROUTER.delete("/keys/{key_id}")
def revoke_key(key_id: str, caller: Admin, plane: PlaneDep, unit: UnitDep) -> Key:
    """Stop a key from working. Refused for the last one of scope admin."""
    return service.revoke(unit.session, key_id, plane.clock())
