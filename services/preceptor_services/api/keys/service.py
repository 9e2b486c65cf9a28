"""Keys: made, listed, revoked, and set up at the first start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, NotFound
from preceptor.wire import keys as wire
from preceptor.wire.common import Scope
from preceptor_services.api.keys.secrets import hash_of, new_id, new_secret
from preceptor_services.db import models
from preceptor_services.errors import BadSetting
from preceptor_services.settings import Settings

_LOCK = 7_314_050_212
"""Number of the PostgreSQL advisory lock under which keys are set up and revoked."""


def shown(key: models.Key) -> wire.Key:
    """A key as it travels."""
    return wire.Key(
        id=key.id,
        name=key.name,
        scope=Scope(key.scope),
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        revoked_at=key.revoked_at,
    )


def create(session: Session, wish: wire.KeyCreate, at: datetime) -> wire.KeyCreated:
    """Make a key. The answer is the only place where its secret ever stands."""
    secret = new_secret()
    key = _new(wish.name, wish.scope, secret, at)
    session.add(key)
    return wire.KeyCreated(key=shown(key), secret=secret)


def every(session: Session) -> tuple[wire.Key, ...]:
    """All keys, oldest first."""
    keys = session.scalars(select(models.Key).order_by(models.Key.created_at, models.Key.id))
    return tuple(shown(key) for key in keys)


def revoke(session: Session, key_id: str, at: datetime) -> wire.Key:
    """Stop a key from working. Revoking it again changes nothing."""
    _lock(session)
    key = session.get(models.Key, key_id)
    if key is None:
        raise NotFound(f"There is no key {key_id[:100]!r}.", remedy="GET /v1/keys lists them.")
    if key.revoked_at is None:
        if key.scope == Scope.ADMIN and _admins(session) == 1:
            raise Conflict(
                f"{key.name} is the last key of scope admin; without it nobody could make keys any more.",
                remedy="Make another one first.",
            )
        key.revoked_at = at
    return shown(key)


def write_uses(session: Session, uses: dict[str, datetime]) -> None:
    """Write down when keys were last seen."""
    for key_id, at in uses.items():
        session.execute(update(models.Key).where(models.Key.id == key_id).values(last_used_at=at))


def bootstrap(session: Session, settings: Settings, at: datetime) -> str | None:
    """Register the keys that the settings bring, and see to it that there is one of scope admin.

    Returns the secret of a key that had to be made up: whoever calls has to show it, since only its hash is kept.
    """
    _lock(session)
    if settings.admin_key is not None:
        _preset(session, "admin", Scope.ADMIN, settings.admin_key, at)
    if settings.worker_key is not None:
        _preset(session, "worker", Scope.RUN, settings.worker_key, at)
    session.flush()
    if _admins(session):
        return None
    secret = new_secret()
    session.add(_new("first-admin", Scope.ADMIN, secret, at))
    return secret


def _preset(session: Session, preset: str, scope: Scope, secret: SecretStr, at: datetime) -> None:
    hashed = hash_of(secret.get_secret_value())
    same = session.scalar(select(models.Key).where(models.Key.hash == hashed))
    if same is not None and same.preset != preset:
        if same.revoked_at is None and same.scope == scope:
            return
        raise BadSetting(
            f"PRECEPTOR_{preset.upper()}_KEY is a key that exists already, of scope {same.scope}; use another."
        )
    held = session.scalar(select(models.Key).where(models.Key.preset == preset))
    if held is None:
        held = _new(preset, scope, secret.get_secret_value(), at)
        held.preset = preset
        session.add(held)
    held.hash, held.revoked_at = hashed, None


def _new(name: str, scope: Scope, secret: str, at: datetime) -> models.Key:
    return models.Key(id=new_id("key"), name=name, scope=scope.value, hash=hash_of(secret), created_at=at)


def _admins(session: Session) -> int:
    active = (models.Key.scope == Scope.ADMIN, models.Key.revoked_at.is_(None))
    return session.scalar(select(func.count()).select_from(models.Key).where(*active)) or 0


def _lock(session: Session) -> None:
    """One at a time. On SQLite there is only ever one writer."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


Announce = Callable[[str], None]
"""Shows a secret to whoever starts the control plane."""
