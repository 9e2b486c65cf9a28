"""Registered teachers."""

from __future__ import annotations

from preceptor.connection import Connection
from preceptor.wire.teachers import EndpointCreate, Teacher, TeacherCreate


class Teachers:
    """Teachers of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, create: TeacherCreate) -> Teacher:
        """Register a teacher. Its URL is called: the answer holds its card and what the probe found.

        Raises Invalid where nothing answers there, or what answers is not what it says.
        """
        return self._connection.post(Teacher, "/v1/teachers", create)

    def list(self) -> tuple[Teacher, ...]:
        """All teachers, by name."""
        return self._connection.get(tuple[Teacher, ...], "/v1/teachers")

    def get(self, name: str) -> Teacher:
        """One teacher. Raises NotFound."""
        return self._connection.get(Teacher, f"/v1/teachers/{name}")

    def probe(self, name: str) -> Teacher:
        """Look again, at all its endpoints, whether it is what it says."""
        return self._connection.post(Teacher, f"/v1/teachers/{name}/probe", twice_is_once=True)

    def drain(self, name: str) -> Teacher:
        """Let it finish what runs need of it, and give it no new ones."""
        return self._connection.post(Teacher, f"/v1/teachers/{name}/drain", twice_is_once=True)

    def undrain(self, name: str) -> Teacher:
        """Let it have runs again; it is probed first."""
        answer = self._connection.send("DELETE", f"/v1/teachers/{name}/drain")
        return self._connection.parse(Teacher, answer)

    def remove(self, name: str) -> None:
        """Forget it. Raises Conflict while a run that has not ended needs it."""
        self._connection.send("DELETE", f"/v1/teachers/{name}")

    def add_endpoint(self, name: str, create: EndpointCreate) -> Teacher:
        """Have the teacher answer at one more URL, for runs that are under way too. The URL is called first.

        Raises Invalid where what answers there is not the same teacher, Conflict where the URL is known already.
        """
        return self._connection.post(Teacher, f"/v1/teachers/{name}/endpoints", create)

    def remove_endpoint(self, name: str, endpoint_id: str) -> Teacher:
        """Have nobody ask an endpoint any more. Raises Conflict where it is the only one."""
        answer = self._connection.send("DELETE", f"/v1/teachers/{name}/endpoints/{endpoint_id}")
        return self._connection.parse(Teacher, answer)

    def drain_endpoint(self, name: str, endpoint_id: str) -> Teacher:
        """Have runs leave an endpoint as soon as another one is ready; what was asked of it, it finishes."""
        path = f"/v1/teachers/{name}/endpoints/{endpoint_id}/drain"
        return self._connection.post(Teacher, path, twice_is_once=True)

    def undrain_endpoint(self, name: str, endpoint_id: str) -> Teacher:
        """Have runs ask an endpoint again; it is probed first."""
        answer = self._connection.send("DELETE", f"/v1/teachers/{name}/endpoints/{endpoint_id}/drain")
        return self._connection.parse(Teacher, answer)
