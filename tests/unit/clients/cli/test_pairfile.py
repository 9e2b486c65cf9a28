"""A pair's file: what is wrong with it is said with its side, before anything is pushed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor.cli.pairfile import load_pair
from preceptor.client import Client
from preceptor.errors import Invalid

RUN = """recipe = "peer_opd"
student = "tiny"
teachers = { start = "base" }
data = { kind = "task", task = "two_domains" }
"""
SIDE_B = f"[b]\nteaches = ['maths']\n[b.run]\n{RUN}"


class Pushes:
    """Artifacts that would be pushed."""

    def __init__(self) -> None:
        self.pushed: list[Path] = []

    def push(self, path: Path, *_: object) -> str:
        self.pushed.append(path)
        return "sha256:" + "0" * 64


@pytest.fixture
def pushes() -> Pushes:
    return Pushes()


def load(text: str, folder: Path, pushes: Pushes) -> object:
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "side.toml").write_text(RUN)
    file = folder / "pair.toml"
    file.write_text(text)
    return load_pair(file, cast(Client, SimpleNamespace(artifacts=pushes)))


def test_a_side_is_a_table_or_a_file(tmp_path: Path, pushes: Pushes) -> None:
    table = load(f"[a]\nteaches = ['letters']\n[a.run]\n{RUN}{SIDE_B}", tmp_path, pushes)
    assert load(f"[a]\nteaches = ['letters']\nrun = 'side.toml'\n{SIDE_B}", tmp_path, pushes) == table
    assert len(pushes.pushed) == 4


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("a = [", "file", "is not TOML"),
        ("", "a", "a is missing"),
        (f"a = 5\n{SIDE_B}", "a", "valid dictionary"),
        (f"[a]\nteaches = []\n{SIDE_B}", "a.run", "a.run is missing"),
        (f"[a]\nrun = 5\n{SIDE_B}", "a.run", "valid string"),
        (f"[a]\nrun = 'side.toml'\nteaches = 'letters'\n{SIDE_B}", "a.teaches", "a valid list (got 'letters')"),
        (f"[a]\nrun = 'side.toml'\nteaches = 5\n{SIDE_B}", "a.teaches", "a valid list (got 5)"),
        (f"[a]\nrun = 'side.toml'\nteach = []\n{SIDE_B}", "a.teach", "no such field"),
        (f"name = 5\n[a]\nrun = 'side.toml'\n{SIDE_B}", "name", "valid string"),
        (f"policy = 5\n[a]\nrun = 'side.toml'\n{SIDE_B}", "policy", "valid dictionary"),
        (f"policy = {{ max_lag = -1 }}\n[a]\nrun = 'side.toml'\n{SIDE_B}", "policy.max_lag", "greater than or equal"),
        (f"[a]\nrun = 'nothing.toml'\n{SIDE_B}", "a.run.file", "cannot be read"),
        (f"[a]\nrun = 'side.toml'\n{SIDE_B}steps = 3\n", "b.run.steps", "no such field|Extra inputs"),
    ],
)
def test_what_is_wrong_names_its_side(tmp_path: Path, pushes: Pushes, text: str, field: str, said: str) -> None:
    with pytest.raises(Invalid, match=said.replace("(", r"\(").replace(")", r"\)")) as caught:
        load(text, tmp_path, pushes)
    assert caught.value.field == field
    assert not pushes.pushed, "it is found before anything is sent"
    assert caught.value.problem.remedy


def test_a_student_that_is_not_there_is_a_sides(tmp_path: Path, pushes: Pushes) -> None:
    with pytest.raises(Invalid, match="is not a folder") as caught:
        load(f"[a]\nrun = 'side.toml'\n{SIDE_B.replace('tiny', 'huge')}", tmp_path, pushes)
    assert caught.value.field == "b.run.model"
