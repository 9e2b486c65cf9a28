"""Keys to the control plane."""

from __future__ import annotations

from preceptor.connection import Connection
from preceptor.wire.common import Scope
from preceptor.wire.keys import Key, KeyCreate, KeyCreated


class Keys:
    """Keys of the control plane. All of this needs a key of scope admin."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, name: str, scope: Scope = Scope.READ) -> KeyCreated:
        """Make a key. Its secret is in this answer and nowhere else."""
        return self._connection.post(KeyCreated, "/v1/keys", KeyCreate(name=name, scope=scope))

    def list(self) -> tuple[Key, ...]:
        """All keys, revoked ones included, oldest first."""
        return self._connection.get(tuple[Key, ...], "/v1/keys")

    def revoke(self, key_id: str) -> Key:
        """Stop a key from working. Raises Conflict for the last key of scope admin."""
        answer = self._connection.send("DELETE", f"/v1/keys/{key_id}")
        return self._connection.parse(Key, answer)
