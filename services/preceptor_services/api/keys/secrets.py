"""Secrets: made from random bits, kept as hashes."""

from __future__ import annotations

import hashlib
import secrets


def new_secret() -> str:
    """A secret with 256 random bits."""
    return f"pk_{secrets.token_urlsafe(32)}"


def hash_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_id(prefix: str) -> str:
    """A fresh id, e.g. `run-3f9c0a1b2c4d`."""
    return f"{prefix}-{secrets.token_hex(6)}"
