"""Settings: from the environment and from files of secrets, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from preceptor_services.errors import BadSetting
from preceptor_services.settings import Settings, read_secret

LONG = "a-key-of-more-than-twenty-characters"


def test_nothing_has_to_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings()
    assert settings.home_dir == tmp_path / ".preceptor"
    assert settings.database == f"sqlite:///{tmp_path}/.preceptor/preceptor.db"
    assert (settings.host, settings.port) == ("127.0.0.1", 8420)
    assert not settings.home_dir.exists(), "nothing is opened by looking"


def test_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRECEPTOR_PORT", "9000")
    monkeypatch.setenv("PRECEPTOR_LEASE_SECONDS", "2.5")
    monkeypatch.setenv("PRECEPTOR_DATABASE_URL", "postgresql://u:secret@db/p")
    monkeypatch.setenv("PRECEPTOR_REFUSED_NETWORKS", "10.0.0.0/8, fe80::/10")
    monkeypatch.setenv("PRECEPTOR_BROKER_URL", "")
    settings = Settings()
    assert (settings.port, settings.lease_seconds) == (9000, 2.5)
    assert settings.database == "postgresql://u:secret@db/p"
    assert settings.refused_networks == ("10.0.0.0/8", "fe80::/10")
    assert settings.broker_url.get_secret_value() == "redis://127.0.0.1:6379/0", "empty is as good as unset"
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL", "ADMIN_KEY", "WORKER_KEY"])
def test_a_secret_may_lie_in_a_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text(f"{LONG}\n")
    monkeypatch.setenv(f"PRECEPTOR_{name}_FILE", str(file))
    found = getattr(Settings(), name.lower())
    assert found.get_secret_value() == LONG
    monkeypatch.setenv(f"PRECEPTOR_{name}", f"the-environment-wins-{LONG}")
    assert getattr(Settings(), name.lower()).get_secret_value() == f"the-environment-wins-{LONG}"


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PRECEPTOR_ADMIN_KEY_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(BadSetting, match=r"PRECEPTOR_ADMIN_KEY_FILE: .*nowhere cannot be read"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ADMIN_KEY", "short", "too short to be safe"),
        ("PORT", "70000", "less than or equal to 65535"),
        ("LEASE_SECONDS", "0", "greater than 0"),
        ("REFUSED_NETWORKS", "everything", "does not appear to be"),
    ],
)
def test_what_cannot_be_used(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"PRECEPTOR_{name}", value)
    with pytest.raises(ValidationError, match=said):
        Settings()


def test_a_secret_of_ones_own():
    assert read_secret("NO_SUCH", {}) is None
    assert read_secret("SOME", {"SOME": "x"}) == "x"
