"""A body of weights that arrives in several requests: it goes on where it was, and is what its hash says or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.weights import body_of
from preceptor_services.teacher.backends.hf import HfBackend
from tests.contract.teaching import Teaching, teaching
from tests.models import tiny_model_folder

FRAME = {"Content-Type": "application/x-safetensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "model")


@pytest.fixture
def taught(folder: Path) -> Iterator[Teaching]:
    with teaching(HfBackend(folder), teacher_takes_weights=True) as taught:
        yield taught


@pytest.fixture
def content(folder: Path) -> bytes:
    return b"".join(body_of(folder).pieces())


def spool(taught: Teaching) -> Path:
    return taught.app.state.service.loader.folder


def left_behind(taught: Teaching, content: bytes, of: bytes) -> str:
    """As a request leaves it that broke off after `content`; the hash of the whole."""
    sha256 = hashlib.sha256(of).hexdigest()
    (spool(taught) / f"part-{sha256}").write_bytes(content)
    return sha256


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_what_broke_off_goes_on_where_it_was(taught: Teaching, folder: Path, content: bytes, share: float) -> None:
    have = content[: round(share * len(content))]
    sha256 = left_behind(taught, have, content)
    assert taught.http.get("/v1/weights", params={"sha256": sha256}).json() == {
        "sha256": sha256,
        "offset": len(have),
        "busy": False,
    }
    loaded = taught.client.load_weights(folder)
    assert loaded.received_bytes == len(content) - len(have)
    assert loaded.weights_hash == body_of(folder).hash()
    assert [path.name for path in spool(taught).iterdir()] == ["body-1.safetensors"]


def test_a_part_that_is_not_what_it_was_said_to_be_is_dropped(taught: Teaching, folder: Path, content: bytes) -> None:
    sha256 = left_behind(taught, b"x" * 1000, content)
    answer = taught.http.post(
        "/v1/weights",
        params={"sha256": sha256},
        content=content[1000:],
        headers={**FRAME, "Upload-Offset": "1000"},
    )
    assert answer.status_code == 422 and answer.json()["field"] == "sha256"
    assert f"not {sha256}; they were dropped" in answer.json()["detail"]
    assert taught.client.card().weights_version == 0 and not list(spool(taught).iterdir())
    assert taught.client.load_weights(folder).received_bytes == len(content)


def test_a_body_that_begins_elsewhere_is_refused_and_the_part_stays(taught: Teaching, content: bytes) -> None:
    sha256 = left_behind(taught, content[:1000], content)
    for offset in (999, 1001):
        answer = taught.http.post(
            "/v1/weights",
            params={"sha256": sha256},
            content=content[offset:],
            headers={**FRAME, "Upload-Offset": str(offset)},
        )
        assert answer.status_code == 409 and answer.json()["field"] == "upload-offset", answer.text
        assert "1000 bytes have arrived" in answer.json()["detail"]
    whole = taught.http.post("/v1/weights", params={"sha256": sha256}, content=content, headers=FRAME)
    assert whole.status_code == 200 and whole.json()["received_bytes"] == len(content)


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ({}, {"Upload-Offset": "5"}, "sha256"),
        ({"sha256": "x" * 64}, {}, "sha256"),
        ({"sha256": "0" * 63}, {}, "sha256"),
        ({"sha256": "0" * 64}, {"Upload-Offset": "-1"}, "upload-offset"),
    ],
)
def test_what_makes_no_sense_is_refused(
    taught: Teaching, query: dict[str, str], headers: dict[str, str], field: str
) -> None:
    answer = taught.http.post("/v1/weights", params=query, content=b"x", headers={**FRAME, **headers})
    assert answer.status_code == 422 and answer.json()["field"] == field
    assert not list(spool(taught).iterdir())


def test_a_teacher_keeps_the_part_of_one_body_only(taught: Teaching, folder: Path, content: bytes) -> None:
    left_behind(taught, b"half of something", b"something else")
    taught.client.load_weights(folder)
    assert [path.name for path in spool(taught).iterdir()] == ["body-1.safetensors"]
