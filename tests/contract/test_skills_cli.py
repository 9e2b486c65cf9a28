"""`preceptor skills` against a control plane: what people see, and what programs read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from preceptor.cli import output
from preceptor.cli import skills as cli
from preceptor.cli.main import create_app
from preceptor.errors import Invalid
from preceptor.resources import skills as resource
from preceptor.wire.skills import SkillCreate, SkillUse, SkillUses
from tests.contract.conftest import ADMIN, House

SIGNS = SkillCreate(skill="Change the sign of a moved term.", mistake="Kept the minus.")
CARRY = SkillCreate(skill="Carry the ten when a column is over nine.")


def test_banks_on_the_command_line(sqlite_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    house, skills = sqlite_house, sqlite_house.admin.skills
    monkeypatch.setattr(cli, "connect", lambda url, key_file: house.client(ADMIN))
    monkeypatch.setattr(output.console, "width", 220)  # it has settled on one when it was imported

    def say(*arguments: str) -> str:
        done = CliRunner().invoke(create_app(), ["skills", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "No skill banks yet" in say("list")
    skills.create("algebra", "equations", task="chain_sum")
    skills.publish("algebra", 0, [SIGNS])
    skills.publish("algebra", 1, [CARRY], [1], run="run-7", step=25)
    use = SkillUse(number=2, used=9, shown=40, shown_right=36, plain=40, plain_right=8)
    skills.record_uses("algebra", SkillUses(run="run-7", step=26, uses=(use,)))

    assert "algebra" in say("list") and json.loads(say("list", "--json"))[0]["version"] == 2
    shown = say("show", "algebra")
    assert "Carry the ten" in shown and "Kept the minus" not in shown and "+0.700 [" in shown
    assert "Kept the minus" in say("show", "algebra@1")
    assert json.loads(say("show", "algebra@1", "--json"))["skills"][0]["gone"] == 2
    assert "run-7, step 25" in say("show", "algebra", "--versions")
    assert [each["version"] for each in json.loads(say("show", "algebra", "--versions", "--json"))] == [2, 1]
    assert "Carry the ten" in say("search", "algebra", "a column over nine")
    assert json.loads(say("search", "algebra@1", "moved sign", "--json"))[0]["skill"]["number"] == 1
    changes = say("diff", "algebra@1", "algebra@2")
    assert "algebra/1" in changes and "algebra/2" in changes and "0 in both" in changes
    assert json.loads(say("diff", "algebra@1", "algebra@1", "--json"))["same"] == 1

    file = tmp_path / "bank.jsonl"
    bars = io.StringIO()
    monkeypatch.setattr(output, "complaints", Console(file=bars, force_terminal=True, width=120))
    assert json.loads(say("export", "algebra", str(file), "--json"))["skills"] == 1
    assert bars.getvalue() == "", "programs see no bar"
    assert say("export", "algebra") == file.read_text()
    assert "copy@1 holds 1 skills" in say("import", str(file), "--name", "copy")
    assert "skills sent" in bars.getvalue() and "1/1" in bars.getvalue()
    assert json.loads(say("import", str(file), "--name", "copy", "--json"))["version"] == 1, "nothing is new"
    file.write_text(file.read_text().replace("Carry", "Drop"))
    with pytest.raises(Invalid, match="Line 2"):
        say("import", str(file), "--name", "other")
    with pytest.raises(Invalid, match="names no version"):
        say("show", "algebra@latest")


def test_a_large_bank_says_how_far_it_is(sqlite_house: House, monkeypatch: pytest.MonkeyPatch):
    skills, told = sqlite_house.admin.skills, list[tuple[int, int | None]]()
    monkeypatch.setattr(resource, "AT_ONCE", 2)
    skills.create("five", duplicate_above=None)
    skills.add("five", [SkillCreate(skill=f"Rule number {n}.") for n in range(5)])
    lines = list(skills.export("five", progress=lambda done, of: told.append((done, of))))
    assert told == [(n, 5) for n in range(1, 6)]
    told.clear()
    assert skills.import_(lines, name="again", progress=lambda done, of: told.append((done, of))).skills == 5
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_a_bank_survives_its_file_whatever_its_skills_hold(
    sqlite_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    house, file = sqlite_house, tmp_path / "bank.jsonl"
    monkeypatch.setattr(cli, "connect", lambda url, key_file: house.client(ADMIN))
    told = SkillCreate(skill="One\u2028two\u2029three\x85four\r\nfive\x0bsix\x1cseven", mistake='\ud7ff 🦊 \\n "')
    house.admin.skills.create("odd")
    house.admin.skills.add("odd", [told])
    for arguments in (["export", "odd", str(file)], ["import", str(file), "--name", "even"]):
        done = CliRunner().invoke(create_app(), ["skills", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    (again,) = house.admin.skills.skills("even")
    assert (again.skill, again.mistake) == (told.skill, told.mistake)
    with pytest.raises(Invalid, match="cannot be read"):
        CliRunner().invoke(create_app(), ["skills", "import", str(tmp_path / "nix")], catch_exceptions=False)
