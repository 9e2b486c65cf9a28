"""Every command that a page shows can be typed, and `preceptor up` prints what the quickstart says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from preceptor.cli.main import create_app
from preceptor.wire.teachers import TeacherState
from preceptor_services.commands import announce, announce_teacher
from preceptor_services.up import Ready

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    (page.name, line.partition(" #")[0].strip())
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("preceptor ")
]


def test_pages_show_commands() -> None:
    assert len(SHOWN) >= 12


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_shown_command_exists_with_its_options(page: str, line: str) -> None:
    command, words = get_command(create_app()), shlex.split(line)[1:]
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        commands = command.commands  # pyright: ignore[reportAttributeAccessIssue]
        assert words[0] in commands, f"{page}: `{line}`: there is no command {words[0]!r}"
        command = commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{page}: `{line}`: there is no option {word}"


def test_what_up_prints_is_what_the_quickstart_shows(capsys: pytest.CaptureFixture[str]) -> None:
    ready = Ready(
        url="http://127.0.0.1:8420",
        teacher_url="http://127.0.0.1:8421",
        admin_key="pk-admin-...",
        home=Path("/home/you/.preceptor"),
        first_start=True,
    )
    announce(ready, as_json=False)
    announce_teacher("tiny", TeacherState.READY, as_json=False)
    assert f"```\n{capsys.readouterr().out}```" in (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
