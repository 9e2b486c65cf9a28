"""Keys on the wire. A key's secret leaves the control plane once, in the answer that creates it."""

from __future__ import annotations

from datetime import datetime

from preceptor.wire.common import Name, Scope, Wire


class KeyCreate(Wire):
    """A wish for a key."""

    name: Name
    """Whom or what it is for."""
    scope: Scope = Scope.READ
    """What it may do."""


class Key(Wire):
    """A key, without its secret."""

    id: str
    """Its id: not a secret, and the second part of the secret's text."""
    name: str
    """Whom or what it is for."""
    scope: Scope
    """What it may do."""
    created_at: datetime
    """When it was made."""
    last_used_at: datetime | None = None
    """When it was last seen, to the minute."""
    revoked_at: datetime | None = None
    """When it stopped to work; None: it works."""


class KeyCreated(Wire):
    """A new key with its secret, which is shown this once and kept only as a hash."""

    key: Key
    """The key."""
    secret: str
    """What to send as `Authorization: Bearer ...`."""
