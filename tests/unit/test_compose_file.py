"""What can be said of docker-compose.yml without an engine; scripts/test-compose says the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ONE_SHOT = {"codistill", "demo", "secrets"}


def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def lasting() -> list[str]:
    return [name for name in services() if name not in ONE_SHOT]


@pytest.mark.parametrize("name", services())
def test_every_block_is_guarded(name: str) -> None:
    block = services()[name]
    assert block["read_only"] is True
    assert block["cap_drop"] == ["ALL"]
    assert block["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", lasting())
def test_every_lasting_block_has_a_health_check(name: str) -> None:
    assert services()[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", services())
def test_nothing_is_published_but_on_loopback(name: str) -> None:
    for port in services()[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", services())
def test_official_images_are_pinned_and_not_root(name: str) -> None:
    block = services()[name]
    if "build" not in block:
        assert re.fullmatch(r"[a-z]+:\d+-bookworm|[a-z]+/[a-z-]+:v[\d.]+", block["image"])
        assert block["user"] != "root"


def test_our_images_are_pinned_and_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "ARG PYTHON_IMAGE=python:3.11-slim-bookworm" in text
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[2:]
    for stage in stages:
        assert "\nUSER preceptor\n" in stage, stage.splitlines()[0]


@pytest.mark.parametrize("name", services())
def test_no_secret_stands_in_the_file(name: str) -> None:
    """A setting whose name says that it holds a secret may only name a file."""
    for variable in services()[name].get("environment", {}):
        if re.search(r"KEY|PASSWORD|SECRET|TOKEN|DATABASE_URL|BROKER_URL", variable):
            assert variable.endswith("_FILE"), f"{name}: {variable}"


def test_trainers_that_teach_each_other_share_no_disk() -> None:
    """Only what may not be written, and holds nothing but a key."""
    first, second = (set(services()[name]["volumes"]) for name in ("trainer-a", "trainer-b"))
    assert all(
        volume.startswith(("broker-", "teacher-", "worker-")) and volume.endswith(":ro") for volume in first & second
    )
    own = [
        {volume.partition(":")[0] for volume in mine - theirs} for mine, theirs in ((first, second), (second, first))
    ]
    assert own == [{"cache-a"}, {"cache-b"}]
