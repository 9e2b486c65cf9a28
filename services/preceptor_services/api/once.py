"""Wishes that come twice: under one idempotency key, the same wish is what it became the first time."""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict
from preceptor_services.db import models
from preceptor_services.db.session import one_at_a_time

Made = TypeVar("Made", bound=models.Wished)
NOUNS: dict[type[models.Wished], str] = {models.Run: "run", models.Debate: "debate", models.Codistillation: "pair"}
"""What a wish becomes."""


def became(session: Session, table: type[Made], key_id: str, idempotency_key: str | None, hashed: str) -> Made | None:
    """What a caller's wish of this hash became under this key before; None: nothing. Others with the key wait until
    this unit of work ends. Raises Conflict where the key was used for another wish."""
    if idempotency_key is None:
        return None
    noun = NOUNS[table]
    one_at_a_time(session, f"{noun}/{key_id}/{idempotency_key}")
    held = session.scalar(select(table).where(table.created_by == key_id, table.idempotency_key == idempotency_key))
    if held is not None and held.request_hash != hashed:
        raise Conflict(
            f"idempotency-key: {idempotency_key!r} was used for {noun} {held.id}, with another body.",
            field="idempotency-key",
            remedy=f"Use a new key for a new {noun}.",
        )
    return held


def hash_of(wish: BaseModel) -> str:
    """The same for the same wish, in whatever order its fields and keys came."""
    canonical = json.dumps(json.loads(wish.model_dump_json()), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
