"""Every command that a page shows can be typed, and `preceptor up` prints what the quickstart says."""

from __future__ import annotations

import io
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from preceptor.cli.main import create_app
from preceptor.cli.watch import Watch, describe_result
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Event, EventKind, Run, RunResult, RunState, Training
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

REST = {"mean_length": 8.0, "seconds": 1.0}


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


def test_what_watch_draws_is_what_the_quickstart_shows() -> None:
    block = re.search(r"```\n(queued.*?)```", (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    page = block[1].splitlines()
    drawn = io.StringIO()
    now = datetime.now(UTC)
    happened: list[tuple[EventKind, dict[str, Any]]] = [
        ("state", {"from": None, "to": "queued", "reason": "submitted"}),
        ("state", {"from": "queued", "to": "running", "reason": "taken by vm-5058"}),
        ("evaluation", {"step": 0, "n": 200, "correct": 63, "accuracy": 0.315, "ci95": 0.064, **REST}),
        ("evaluation", {"step": 40, "n": 200, "correct": 171, "accuracy": 0.855, "ci95": 0.049, **REST}),
        ("step", {"step": 40, "metrics": {"loss": 0.0182, "tokens_per_second": 495.0}}),
        ("checkpoint", {"step": 40, "artifact": "sha256:04ccef0e8aa7" + "0" * 52}),
        ("state", {"from": "running", "to": "succeeded", "reason": "finished by vm-5058"}),
    ]
    with Watch(run := a_run(), Console(file=drawn, width=120)) as board:
        for number, (kind, data) in enumerate(happened, 1):
            board.show(Event(id=number, run_id="run-1", at=now, kind=kind, data=data))
    lines = [re.sub(r"\d:\d\d:\d\d", "0:01:00", line.rstrip()) for line in drawn.getvalue().splitlines()]
    plain = Console(file=(said := io.StringIO()), width=200)
    plain.print(describe_result(run), soft_wrap=True)
    for line in [*lines, *said.getvalue().splitlines()]:
        assert line in page, line


def a_run() -> Run:
    """The run that the quickstart shows, at its end."""
    result = RunResult(
        task="spell_backward",
        n=200,
        before=0.315,
        after=0.855,
        gain=0.54,
        ci95=(0.468, 0.612),
        steps=40,
        train_seconds=50.2,
    )
    now = datetime.now(UTC)
    return Run(
        id="run-1",
        name="opsd-spell-backward",
        recipe="opsd",
        overrides={},
        resolved={},
        student="sha256:" + "0" * 64,
        teachers={"self": "tiny"},
        data=TaskSource(task="spell_backward"),
        training=Training(),
        state=RunState.SUCCEEDED,
        step=40,
        created_at=now,
        updated_at=now,
        result=result,
    )


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
