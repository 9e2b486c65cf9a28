"""Contents that go: those that nobody names any more, and nothing under whoever reads, sends or names one just then."""

from __future__ import annotations

import hashlib
import os

import pytest

from preceptor_services.api.artifacts.service import forget
from preceptor_services.api.sweeper import sweep
from preceptor_services.db.session import Unit
from tests.contract.conftest import House
from tests.contract.test_artifacts import announce, checkpoint, put


def test_uploads_that_nobody_goes_on_with_are_forgotten(sqlite_house: House):
    _, sha256 = announce(sqlite_house)
    put(sqlite_house, sha256, b"go")
    part = sqlite_house.plane.blobs.part(sha256, 4)
    now = sqlite_house.clock().timestamp()
    os.utime(part, (now, now))
    sweep(sqlite_house.plane)
    assert part.exists()
    sqlite_house.clock.pass_seconds(8 * 24 * 3600)
    sweep(sqlite_house.plane)
    assert not part.exists()


def test_an_upload_that_goes_on_after_a_week_is_not_forgotten_under_it(sqlite_house: House):
    content, blobs = b"abcdef", sqlite_house.plane.blobs
    sha256 = hashlib.sha256(content).hexdigest()
    with blobs.writing(sha256, len(content)) as part:
        os.utime(blobs.part(sha256, len(content)), (0, 0))
        assert blobs.drop_parts(older_than=1.0) == 0
        part.write(content)
        part.finish()
    assert blobs.has(sha256, len(content))


def test_a_content_that_is_read_is_read_to_its_end(sqlite_house: House):
    blobs = sqlite_house.plane.blobs
    _, sha256 = announce(sqlite_house)
    assert put(sqlite_house, sha256, b"good").status_code == 200
    reading = blobs.read(sha256, 0, 4)
    blobs.drop(sha256)  # a checkpoint is superseded while another worker fetches it
    assert b"".join(reading) == b"good"
    with pytest.raises(FileNotFoundError):
        blobs.read(sha256, 0, 4)


def test_a_content_that_is_announced_again_while_it_is_forgotten_stays(house: House, monkeypatch: pytest.MonkeyPatch):
    first = house.admin.artifacts.push(checkpoint(house.tmp / "a", weights=b"shared", step=b"1"), "checkpoint", "a")
    other, run_after, found = checkpoint(house.tmp / "b", weights=b"shared", step=b"2"), Unit.run_after, list[str]()

    def between(unit: Unit) -> None:
        if not found:
            found.append("")
            found.append(house.admin.artifacts.push(other, "checkpoint", "b"))
        run_after(unit)

    monkeypatch.setattr(Unit, "run_after", between)
    forget(house.plane.database, house.plane.blobs, [first])
    kept = house.admin.artifacts.get(found[1]).manifest
    assert all(house.plane.blobs.has(each.sha256, each.size) for each in kept.files)
    assert not house.plane.blobs.path(hashlib.sha256(b"1").hexdigest()).exists(), "what nobody names any more goes"
