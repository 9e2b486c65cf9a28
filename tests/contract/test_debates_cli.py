"""`preceptor debates start`: what its options and `--set` come to, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from preceptor.cli import debates as cli
from preceptor.cli.main import create_app
from preceptor.debates.templates import BUILT_IN
from preceptor.errors import Invalid
from preceptor.wire.common import Problem
from preceptor.wire.debates import Debate, DebateCreate, DebateState, DebateTurn
from tests.contract.conftest import ADMIN, House
from tests.contract.debating import register

START = ("start", "Why?", "--teacher", "ann", "--teacher", "bob")


@pytest.fixture
def ready(sqlite_house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """With two teachers that write."""
    for name in ("ann", "bob"):
        register(sqlite_house, name, f"http://127.0.0.1:1/{name}")
    monkeypatch.setattr(cli, "connect", lambda url, key_file: sqlite_house.client(ADMIN))
    return sqlite_house


def say(*arguments: str) -> Result:
    return CliRunner().invoke(create_app(), ["debates", *arguments], catch_exceptions=False)


def started(*arguments: str) -> dict[str, Any]:
    done = say(*START, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)["wish"]


def test_what_set_says_is_not_undone_by_options_that_were_not_given(ready: House) -> None:
    wish = started("--set", "template=panel", "--set", "attempt=Because.", "--set", "fresh=true", "--set", "tau=0.2")
    assert (wish["template"], wish["attempt"], wish["fresh"], wish["tau"]) == ("panel", "Because.", True, 0.2)
    wish = started(
        "--set", "template=panel", "--template", "discussion", "--set", "budget.tokens=4000", "--rounds", "3"
    )
    assert (wish["template"], wish["budget"]["tokens"], wish["overrides"]) == ("discussion", 4000, {"rounds": 3})
    assert started("--seconds", "9", "--set", "budget.tokens=4001")["budget"] == {"tokens": 4001, "seconds": 9.0}
    assert started()["template"] == "discussion"


@pytest.mark.parametrize("pair", ["budget=5", "overrides=5", "question=What?", "stop=agreement", "tau=inf"])
def test_a_set_that_cannot_be_meant_is_refused(ready: House, pair: str) -> None:
    with pytest.raises((Invalid, ValueError), match=pair.partition("=")[0]):
        say(*START, "--set", pair)
    assert not list(ready.admin.debates.list())


@pytest.mark.parametrize(("state", "code"), [(DebateState.SUCCEEDED, 0), (DebateState.FAILED, 1)])
def test_who_waits_is_told_by_the_exit_code(
    ready: House, monkeypatch: pytest.MonkeyPatch, state: DebateState, code: int
) -> None:
    def ended(_: object, debate_id: str, **__: object) -> Debate:
        error = Problem(title="Too few debaters", detail="None is left.") if state is DebateState.FAILED else None
        return ready.admin.debates.get(debate_id).model_copy(update={"state": state, "error": error})

    monkeypatch.setattr("preceptor.resources.debates.Debates.wait", ended)
    for arguments in ((), ("--json",)):
        done = say(*START, "--wait", *arguments)
        assert done.exit_code == code and state.value in done.output


def test_a_template_is_stored_from_a_file_or_the_file_is_at_fault(ready: House, tmp_path: Path) -> None:
    file = tmp_path / "short.json"
    file.write_text(BUILT_IN["discussion"].model_dump_json())
    assert "short@1" in say("templates", "short", "--store", str(file)).output
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="is not text in UTF-8"):
        say("templates", "short", "--store", str(file))
    with pytest.raises(Invalid, match="cannot be read"):
        say("templates", "short", "--store", str(tmp_path / "nothing.json"))


def test_a_debater_s_words_are_shown_and_not_obeyed(ready: House) -> None:
    created = ready.admin.debates.start(DebateCreate(question="Why?", teachers=("ann", "bob")))
    fence = ready.admin.debates.lease(created.id, "worker").fence
    turn = DebateTurn(round=1, debater="ann", argument="\x1b[2JI [bold]am[/] sure.", confidence=90, answer="\x9b31m42")
    ready.admin.debates.record(created.id, fence, [turn])
    shown = say("show", created.id).output
    assert "[2JI [bold]am[/] sure." in shown and not {"\x1b", "\x9b"} & set(shown)
