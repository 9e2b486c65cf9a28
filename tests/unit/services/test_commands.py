"""The commands that start a process: settings from the environment, named when they are wrong; logs as JSON."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from preceptor.cli.main import main
from preceptor_services.commands import JsonLines


@pytest.mark.parametrize(
    ("command", "settings", "named"),
    [
        (("worker",), {}, "PRECEPTOR_URL"),
        (("worker",), {"URL": "ftp://x", "KEY": "Zx81-any", "BROKER_URL": "redis://x"}, "PRECEPTOR_URL"),
        (
            ("worker",),
            {"URL": "http://x", "KEY_FILE": "/no/file", "BROKER_URL": "redis://x"},
            "PRECEPTOR_KEY_FILE",
        ),
        (("worker", "--takes", "everything"), {}, "--takes"),
        (("api",), {"PORT": "many"}, "PRECEPTOR_PORT"),
        (("api",), {"ADMIN_KEY": "Zx81-weak"}, "PRECEPTOR_ADMIN_KEY"),
        (("teacher", "serve", "--model", "."), {}, "PRECEPTOR_TEACHER_KEY"),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    settings: dict[str, str],
    named: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"PRECEPTOR_{name}", value)
    monkeypatch.setattr(sys, "argv", ["preceptor", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert named in said and "Traceback" not in said
    assert not any(value in said for name, value in settings.items() if name.endswith("KEY")), (
        "a secret is never repeated"
    )


def test_log_lines_are_json_when_asked() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, __file__, 1, "run %s\nfailed", ("run-1",), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == ("ERROR", "a.b", "run run-1\nfailed")
    assert "ValueError: no" in told["error"]
