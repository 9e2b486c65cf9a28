"""What examples share: how one ends, and whose models a pair leaves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from examples.common import command, runs
from preceptor.client import Client
from preceptor.errors import PreceptorError
from preceptor.wire.codistillations import Codistillation
from preceptor.wire.runs import Run


def fails() -> NoReturn:
    raise PreceptorError("The run r-1 failed.", remedy="The reason is above.")


def interrupted() -> NoReturn:
    raise KeyboardInterrupt


def test_an_example_ends_by_its_own_code_or_says_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert [command.exit_code(lambda: 0), command.exit_code(lambda: 1), command.exit_code(interrupted)] == [0, 1, 130]
    assert command.exit_code(fails) == 1
    said = capsys.readouterr().err
    assert "The run r-1 failed." in said and "The reason is above." in said and "Traceback" not in said


def run(of: str) -> Run:
    return cast(Run, SimpleNamespace(result=SimpleNamespace(model=of)))


def test_a_pair_leaves_two_models_of_each_side(tmp_path: Path) -> None:
    pulled = dict[Path, str]()

    def pull(artifact: str, folder: Path) -> Path:
        pulled[folder] = artifact
        return folder

    ended = {"side-a": run("a, taught"), "side-b": run("b, taught")}
    client: Any = SimpleNamespace(runs=SimpleNamespace(get=ended.__getitem__), artifacts=SimpleNamespace(pull=pull))
    pair: Any = SimpleNamespace(a=SimpleNamespace(run="side-a"), b=SimpleNamespace(run="side-b"))
    before = {"tutor": run("a"), "pupil": run("b")}
    found = runs.models_of_pair(cast(Client, client), before, cast(Codistillation, pair), tmp_path)
    assert {name: pulled[folder] for name, folder in found.items()} == {
        "tutor before": "a",
        "tutor after": "a, taught",
        "pupil before": "b",
        "pupil after": "b, taught",
    }
