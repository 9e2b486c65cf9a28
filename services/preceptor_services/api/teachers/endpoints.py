"""Teachers over HTTP. To register one is to have the control plane call a URL: an admin's privilege."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body

from preceptor.wire.teachers import EndpointCreate, Teacher, TeacherCreate
from preceptor_services.api.deps import Admin, PlaneDep, Reader, Runner, UnitDep, router
from preceptor_services.api.teachers import replicas, service
from preceptor_services.api.teachers.states import shown

ROUTER = router("teachers")
_WISH = Body(
    openapi_examples={
        "preceptor": {
            "summary": "A Preceptor teacher with a key",
            "value": {"name": "math-32b", "url": "http://10.0.0.7:8421", "key_env": "PRECEPTOR_TEACHER_KEY"},
        }
    }
)
_ENDPOINT = Body(
    openapi_examples={
        "second": {
            "summary": "The same model on another machine",
            "value": {"url": "http://10.0.0.8:8421", "key_env": "PRECEPTOR_TEACHER_KEY"},
        }
    }
)


@ROUTER.post("/teachers", status_code=201)
def register_teacher(wish: Annotated[TeacherCreate, _WISH], caller: Admin, plane: PlaneDep) -> Teacher:
    """Register a teacher. It is called first, and refused where it is not what it says."""
    return service.add(plane, wish)


@ROUTER.get("/teachers")
def list_teachers(caller: Reader, unit: UnitDep) -> tuple[Teacher, ...]:
    """All teachers, by name."""
    return service.every(unit.session)


@ROUTER.get("/teachers/{name}")
def show_teacher(name: str, caller: Reader, unit: UnitDep) -> Teacher:
    """One teacher, with its card and its last probe."""
    return shown(service.get(unit.session, name))


@ROUTER.post("/teachers/{name}/probe")
def probe_teacher(name: str, caller: Runner, plane: PlaneDep) -> Teacher:
    """Look again, at all its endpoints, whether it is what it says."""
    return service.probe(plane, name)


@ROUTER.post("/teachers/{name}/drain")
def drain_teacher(name: str, caller: Admin, plane: PlaneDep, unit: UnitDep) -> Teacher:
    """Let it finish what runs need of it, and give it no new ones."""
    return service.drain(unit.session, name, plane.clock())


@ROUTER.delete("/teachers/{name}/drain")
def undrain_teacher(name: str, caller: Admin, plane: PlaneDep) -> Teacher:
    """Let it have runs again. It is probed first."""
    return service.probe(plane, name, undrain=True)


@ROUTER.delete("/teachers/{name}", status_code=204)
def delete_teacher(name: str, caller: Admin, unit: UnitDep) -> None:
    """Forget it. Refused while a run that has not ended needs it."""
    service.remove(unit.session, name)


@ROUTER.post("/teachers/{name}/endpoints", status_code=201)
def add_endpoint(name: str, wish: Annotated[EndpointCreate, _ENDPOINT], caller: Admin, plane: PlaneDep) -> Teacher:
    """Have a teacher answer at one more URL. It is called first, and refused where it is not the same teacher."""
    return replicas.add(plane, name, wish)


@ROUTER.post("/teachers/{name}/endpoints/{endpoint_id}/drain")
def drain_endpoint(name: str, endpoint_id: str, caller: Admin, plane: PlaneDep, unit: UnitDep) -> Teacher:
    """Have runs leave an endpoint as soon as another one is ready."""
    return replicas.drain(unit.session, name, endpoint_id, plane.clock())


@ROUTER.delete("/teachers/{name}/endpoints/{endpoint_id}/drain")
def undrain_endpoint(name: str, endpoint_id: str, caller: Admin, plane: PlaneDep) -> Teacher:
    """Have runs ask an endpoint again. It is probed first."""
    return replicas.undrain(plane, name, endpoint_id)


@ROUTER.delete("/teachers/{name}/endpoints/{endpoint_id}")
def remove_endpoint(name: str, endpoint_id: str, caller: Admin, plane: PlaneDep, unit: UnitDep) -> Teacher:
    """Have nobody ask an endpoint any more. Refused for a teacher's only one."""
    return replicas.remove(unit.session, name, endpoint_id, plane.clock())
