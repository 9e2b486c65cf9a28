"""What is printed for people: tables whose ids can be copied, and texts that no terminal obeys."""

from __future__ import annotations

import pytest
from rich.console import Console

from preceptor.cli import output
from preceptor.errors import Invalid


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(width=80, record=True, force_terminal=False)
    monkeypatch.setattr(output, "console", console)
    monkeypatch.setattr(output, "complaints", console)
    return console


def test_what_a_terminal_would_obey_is_not_passed_on(narrow: Console) -> None:
    nasty = "a\x1b[2Jb\x07c\x9b31md[red]e[/]\x7f"
    output.show_table(("skill",), [(nasty,)], empty="")
    output.show_facts({"skill": nasty})
    output.complain(Invalid(nasty, field="x\x1b[1m", remedy=nasty), as_json=False)
    said = narrow.export_text()
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\x7f"}
    assert said.count("[red]e[/]") == 4, "and markup is text"
    assert output.plain("two\nlines\tand a tab") == "two\nlines\tand a tab"


def test_an_id_is_never_broken(narrow: Console) -> None:
    row = ("debate-0123456789ab", "word " * 40, "teacher-one, teacher-two", "succeeded", "agreement", 1234, "2 min ago")
    output.show_table(("id", "question", "teachers", "state", "ended by", "tokens", "made"), [row], empty="")
    lines = narrow.export_text(clear=True).splitlines()
    assert any(line.startswith("debate-0123456789ab ") for line in lines) and max(map(len, lines)) <= 80
    assert any(" succeeded " in line for line in lines)
    output.show_table(("id", "kind", "made"), [("sha256:" + "a" * 64, "checkpoint", "31 min ago")], empty="")
    assert len(narrow.export_text().splitlines()) < 5, "unless it would leave nothing for the others"
