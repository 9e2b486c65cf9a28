"""The command: every noun is there, errors are sentences with exit codes, and the SDK alone says what to install."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preceptor.cli import main as cli

NOUNS = {
    "teachers": {"add", "list", "show", "probe", "drain", "rm"},
    "teachers endpoints": {"add", "remove", "drain"},
    "runs": {"start", "list", "show", "watch", "cancel", "pause", "resume", "teachers"},
    "recipes": {"list", "show"},
    "artifacts": {"push", "list", "pull"},
    "skills": {"list", "show", "search", "diff", "import", "export"},
    "debates": {"start", "list", "show", "cancel", "templates"},
    "codistill": {"start", "list", "show", "watch", "stop", "resume"},
    "keys": {"create", "list", "revoke"},
    "teacher": {"serve", "load-weights"},
}


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["preceptor", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def commands_of(app: typer.Typer) -> dict[str, set[str]]:
    """The verbs of every noun; a noun within another is `outer inner`."""
    found: dict[str, set[str]] = {}
    for group in app.registered_groups:
        assert group.name and group.typer_instance
        found[group.name] = {command_name(each) for each in group.typer_instance.registered_commands}
        inner = commands_of(group.typer_instance)
        found |= {f"{group.name} {name}": verbs for name, verbs in inner.items()}
    return found


def command_name(command: typer.models.CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__


def test_every_command_is_there_and_speaks_json() -> None:
    app = cli.create_app()
    found = commands_of(app)
    for noun, verbs in NOUNS.items():
        assert found[noun] == verbs, noun
    assert {command_name(each) for each in app.registered_commands} == {"up", "api", "worker"}
    for path in [*((*n.split(), v) for n, verbs in NOUNS.items() for v in verbs), ("up",), ("api",), ("worker",)]:
        told = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
        assert told.exit_code == 0, path
        assert "--json" in told.output, path


@pytest.mark.parametrize("arguments", [("runs", "list"), ("teachers", "list"), ("runs", "watch", "nobody")])
def test_without_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, out, err = run_main(monkeypatch, capsys, *arguments)
    assert (code, out) == (4, "")
    assert "There is no key" in err and "PRECEPTOR_KEY" in err


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound but not listening: refused at once, and nobody else can take it
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PRECEPTOR_KEY", "a-key-that-nobody-asks-for")
        monkeypatch.setattr("time.sleep", lambda _: None)
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = run_main(monkeypatch, capsys, "runs", "list", "--url", url)
    assert code == 3
    assert url in err and "preceptor up" in err and "Traceback" not in err


def test_errors_are_json_when_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_main(monkeypatch, capsys, "runs", "list", "--json")
    assert (code, out) == (4, "")
    assert json.loads(err)["error"]["status"] == 401


def test_a_wrong_file_is_the_callers_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PRECEPTOR_KEY", "unused")
    code, _, err = run_main(monkeypatch, capsys, "runs", "start", str(tmp_path / "no.toml"))
    assert code == 2
    assert "cannot be read" in err
    code, _, err = run_main(monkeypatch, capsys, "runs", "start", "opsd")
    assert code == 2
    assert "student: Field required" in err, "a recipe is no file"
    code, _, err = run_main(monkeypatch, capsys, "runs", "start", "opsd", "--recipe", "opd")
    assert code == 2
    assert "Two recipes are named, opsd and opd." in err
    code, _, err = run_main(monkeypatch, capsys, "runs", "list", "--key-file", str(tmp_path / "no.key"))
    assert code == 2
    assert "--key-file" in err


def test_a_value_that_the_wire_does_not_take_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRECEPTOR_KEY", "unused")
    code, _, err = run_main(monkeypatch, capsys, "teachers", "add", "No Spaces", "http://127.0.0.1:9")
    assert code == 2
    assert "name" in err and "Traceback" not in err and "pydantic.dev" not in err


def test_a_file_that_is_in_the_way_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = run_main(monkeypatch, capsys, "up", "--home", str(tmp_path / "file"))
    assert code == 1
    assert str(tmp_path / "file") in err and "Traceback" not in err


def test_without_the_services_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: ())
    for name in ("up", "worker", "api", "teacher"):
        code, _, err = run_main(monkeypatch, capsys, name, "serve", "--model", "x")
        assert code == 2
        assert "preceptor[services,trainer]" in err


def test_where_a_package_is_missing_the_extra_is_named() -> None:
    """As in an environment with only the SDK: the commands are there, what they need is not."""
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('celery', 'fastapi', 'torch', 'uvicorn', 'sqlalchemy', 'starlette'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from preceptor.cli.main import main\n"
        "sys.argv = ['preceptor', 'worker']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "preceptor[services,trainer]" in done.stderr and "Traceback" not in done.stderr
