"""What every noun on the wire shares: the base model, problems, pages, scopes.

JSON has no NaN and no infinity. Where a number may be one of them (a metric, a log-probability) it travels as the
string "NaN", "Infinity" or "-Infinity", both ways.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hex."""
ArtifactId = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""The content hash of an artifact's manifest."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""What people call a thing: letters, digits, `.`, `_` and `-`, at most 100, starting with a letter or a digit."""
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A whole number that survives every JSON reader."""
STEP_LIMIT = 2**31 - 1
Step = Annotated[int, Field(ge=0, le=STEP_LIMIT)]
"""An optimizer step. The first is 1; 0 stands for before any."""


class Wire(BaseModel):
    """The base of everything that travels: immutable, and an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings", protected_namespaces=()
    )


class Scope(StrEnum):
    """What a key may do. Each scope includes the ones before it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"

    def covers(self, needed: Scope) -> bool:
        """Whether a key of this scope may do what `needed` allows."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


class Problem(Wire):
    """RFC 9457 problem details: the body of every error, as `application/problem+json`."""

    type: str = "about:blank"
    """A stable name of the kind of problem, e.g. `/problems/lease-lost`."""
    title: str
    """What went wrong, in a few words."""
    detail: str
    """Why, in one sentence, with the names and the numbers."""
    remedy: str | None = None
    """What to do about it."""
    field: str | None = None
    """The field of the request that is at fault, as a dotted path."""
    status: int = Field(default=500, ge=100, le=599)
    """The HTTP status it came with."""


class Page(Wire, Generic[Item]):
    """Some of a list, newest first unless the endpoint says otherwise."""

    items: tuple[Item, ...]
    """This page's items."""
    next_cursor: str | None = None
    """Pass it as `cursor` to get the next page. None: this was the last one."""
