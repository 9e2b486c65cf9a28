"""Questions to a running composed stack; scripts/test-compose starts it, runs this, and takes it down."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.compose

SERVICES = ("db", "broker", "api", "teacher", "trainer", "debates")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def compose(*arguments: str) -> str:
    return subprocess.run(
        ["docker", "compose", *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def containers() -> dict[str, dict[str, Any]]:
    """What the engine says of every container of the stack, by service."""
    found = json.loads(docker("inspect", *compose("ps", "-q").split()))
    return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in found}


@pytest.fixture(scope="module")
def url() -> str:
    """Where the stack publishes its API, as the engine says: on loopback."""
    address = compose("port", "api", "8420").strip()
    assert address.startswith("127.0.0.1:")
    return f"http://{address}"


def secret(service: str, name: str) -> str:
    return compose("exec", "-T", service, "cat", f"/secrets/{name}")


def test_every_service_is_healthy_and_not_root() -> None:
    found = containers()
    assert set(SERVICES) <= set(found)
    for service in SERVICES:
        assert found[service]["State"]["Health"]["Status"] == "healthy", service
        assert compose("exec", "-T", service, "id", "-u").strip() != "0", service


def test_nothing_can_gain_privileges_or_write_its_image() -> None:
    for service, container in containers().items():
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service


def test_no_secret_shows_in_what_the_engine_tells() -> None:
    told = json.dumps(containers())
    for service, name in [
        ("db", "db/password"),
        ("broker", "broker/password"),
        ("api", "admin/key"),
        ("teacher", "teacher/key"),
    ]:
        assert secret(service, name) not in told, name


def test_secrets_reach_only_those_who_need_them() -> None:
    mounts = {
        service: {
            mount["Destination"].rpartition("/")[2]
            for mount in container["Mounts"]
            if "/secrets/" in mount["Destination"]
        }
        for service, container in containers().items()
        if service in SERVICES
    }
    assert mounts == {
        "db": {"db"},
        "broker": {"broker"},
        "api": {"admin", "broker", "db", "teacher", "worker"},
        "teacher": {"teacher"},
        "trainer": {"broker", "teacher", "worker"},
        "debates": {"broker", "teacher", "worker"},
    }


def test_only_the_api_is_published() -> None:
    published = {
        s: [b["HostIp"] for p in c["NetworkSettings"]["Ports"].values() for b in p or []]
        for s, c in containers().items()
    }
    assert published.pop("api") == ["127.0.0.1"]
    assert not any(published.values())


def test_keys_are_required_everywhere_but_for_health(url: str) -> None:
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/readyz").status_code == 200
    admin = {"Authorization": f"Bearer {secret('api', 'admin/key')}"}
    paths = httpx.get(f"{url}/openapi.json", headers=admin).raise_for_status().json()["paths"]
    for path, methods in paths.items():
        if path in ("/healthz", "/readyz"):
            continue
        for method in methods:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert httpx.request(method, url + path, headers=headers).status_code == 401, f"{method} {path}"
    assert httpx.get(f"{url}/v1/runs", headers=admin).status_code == 200


def test_the_worker_key_is_no_admin_key(url: str) -> None:
    worker = {"Authorization": f"Bearer {secret('api', 'worker/key')}"}
    assert httpx.get(f"{url}/v1/runs", headers=worker).status_code == 200
    assert httpx.get(f"{url}/v1/keys", headers=worker).status_code == 403


def test_the_teacher_wants_its_key() -> None:
    ask = (
        "import urllib.request as u, sys\n"
        "try: u.urlopen('http://teacher:8421/v1/card', timeout=10)\n"
        "except u.HTTPError as e: print(e.code)\n"
    )
    assert compose("exec", "-T", "api", "python", "-c", ask).strip() == "401"


def test_db_and_broker_have_no_way_out() -> None:
    networks = {s: set(c["NetworkSettings"]["Networks"]) for s, c in containers().items()}
    assert networks["db"] == networks["broker"] == {f"{os.environ['COMPOSE_PROJECT_NAME']}_back"}


@pytest.mark.parametrize("service", ["api", "debates"])
def test_what_does_not_train_has_no_torch(service: str) -> None:
    found = "import importlib.util as u; print([name for name in ('torch', 'transformers') if u.find_spec(name)])"
    assert compose("exec", "-T", service, "python", "-c", found).strip() == "[]"
