"""Cursors: where the next page of a list begins. Opaque to whoever holds one, and checked when it comes back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVarTuple

from sqlalchemy import Select

from preceptor.errors import Invalid
from preceptor_services.db import models

Dated = models.Artifact | models.Codistillation | models.Debate | models.Run
Columns = TypeVarTuple("Columns")


def _bad() -> Invalid:
    return Invalid("cursor: it is not one that this list gave out.", field="cursor", remedy="Start without a cursor.")


def encode(*parts: str) -> str:
    """A cursor that stands for these parts."""
    return base64.urlsafe_b64encode("\n".join(parts).encode()).decode().rstrip("=")


def decode(cursor: str, parts: int) -> list[str]:
    """The parts that a cursor stands for. Raises Invalid where it was not made by `encode` with as many."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise _bad() from error
    found = raw.split("\n")
    if len(found) != parts or "\x00" in raw:
        raise _bad()
    return found


def newest(query: Select[*Columns], table: type[Dated], limit: int, cursor: str | None) -> Select[*Columns]:
    """The query for a page of a list that is ordered by time, newest first, and for one row more, which says whether
    another page follows. Raises Invalid."""
    if cursor is not None:
        at, last = _moment(cursor)
        query = query.where((table.created_at < at) | ((table.created_at == at) & (table.id < last)))
    return query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)


def following(found: Sequence[Dated], limit: int) -> str | None:
    """The cursor of the page after the one that `newest` found. None: it is the last."""
    if len(found) <= limit:
        return None
    return encode(found[limit - 1].created_at.isoformat(), found[limit - 1].id)


def _moment(cursor: str) -> tuple[datetime, str]:
    """When and which. Raises Invalid."""
    when, which = decode(cursor, 2)
    try:
        at = datetime.fromisoformat(when)
    except ValueError as error:
        raise _bad() from error
    if at.tzinfo is None or not 1970 <= at.year <= 9000:
        raise _bad()
    return at, which


def number(cursor: str) -> int:
    """A plain number: the cursor of lists that are ordered by one. Raises Invalid."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 10) or int(cursor) > 2**31 - 1:
        raise _bad()
    return int(cursor)
