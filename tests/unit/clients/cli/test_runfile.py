"""A run written as TOML becomes the wish that the control plane takes, and what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from preceptor.cli.models import artifact_name
from preceptor.cli.runfile import FileSource, assignments, load_run_file, merged, parse_run, to_create
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.data import TaskSource

RUN = """
recipe = "opsd"
student = "model"
[teachers]
self = "tiny"
[data]
kind = "task"
task = "spell_backward"
[training]
steps = 40
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_file_is_read_and_changes_win(tmp_path: Path) -> None:
    run = load_run_file(write(tmp_path, RUN), {"training": {"batch": 8}, "name": "mine"})
    assert run.training == {"steps": 40, "batch": 8}
    assert run.name == "mine"
    assert isinstance(run.data, TaskSource) and run.data.task == "spell_backward"


def test_another_task_takes_the_datas_place(tmp_path: Path) -> None:
    text = RUN.replace('kind = "task"\ntask = "spell_backward"', 'kind = "dataset"\nfile = "rows.jsonl"')
    assert isinstance(load_run_file(write(tmp_path, text), {}).data, FileSource)
    run = load_run_file(write(tmp_path, text), {}, task="chain_sum")
    assert run.data == TaskSource(task="chain_sum")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('recipe = "opsd"', "", "recipe"),
        ('recipe = "opsd"', 'recipee = "opsd"', "recipe"),
        ('kind = "task"', 'kind = "tasks"', "data"),
        ('task = "spell_backward"', "", "data.task"),
        ('student = "model"', "student = 3", "student"),
        ('student = "model"', 'student = "model"\nname = "no spaces"', "name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        load_run_file(write(tmp_path, RUN.replace(old, new)), {})
    assert caught.value.field == field
    assert "run.toml" in str(caught.value)


def test_a_file_that_is_no_toml_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is not TOML"):
        load_run_file(write(tmp_path, "recipe = "), {})
    with pytest.raises(Invalid, match="cannot be read"):
        load_run_file(tmp_path / "absent.toml", {})


def test_without_a_file_everything_comes_from_the_command_line() -> None:
    changes = {"recipe": "opsd", "student": "x", "teachers": {"self": "tiny"}}
    assert parse_run(changes, task="chain_sum", where="here").recipe == "opsd"
    with pytest.raises(Invalid, match="here: data"):
        parse_run(changes, where="here")


def test_assignments_are_typed_and_nested() -> None:
    assert assignments(["training.steps=5", "training.betas=[0.9, 0.99]", "name=plain-text"]) == {
        "training": {"steps": 5, "betas": [0.9, 0.99]},
        "name": "plain-text",
    }
    assert assignments(["self=tiny"], under="teachers") == {"teachers": {"self": "tiny"}}
    assert assignments(["name=null", "data.task=chain_sum"]) == {"name": None, "data": {"task": "chain_sum"}}
    for wrong in ("training.steps", "=5", "training..steps=5", ".a=5"):
        with pytest.raises(Invalid, match="sets nothing"):
            assignments([wrong])


def test_what_is_not_the_runs_is_its_recipes(tmp_path: Path) -> None:
    said = ["objective.0.beta=0.3", "overrides.rollout.samples=8", "teacher={kind='ema'}", "training.steps=9"]
    changes = assignments(said)
    assert changes == {
        "overrides": {"objective.0.beta": 0.3, "rollout.samples": 8, "teacher": {"kind": "ema"}},
        "training": {"steps": 9},
    }
    text = RUN + "[overrides]\nobjective = [{kind = 'jsd', beta = 0.1}]\n"
    wish = load_run_file(write(tmp_path, text), changes)
    assert list(wish.overrides) == ["objective", "objective.0.beta", "rollout.samples", "teacher"], (
        "the file comes first"
    )
    assert assignments(["objective.0.clip=null"]) == {"overrides": {"objective.0.clip": None}}


def test_merging_keeps_what_is_not_changed() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(("given", "made"), [("my model (2)", "my-model-2"), ("..", "unnamed"), ("ok_1.0", "ok_1.0")])
def test_names_of_artifacts(given: str, made: str) -> None:
    assert artifact_name(given) == made


def test_the_wish_says_how_tokenizers_meet(tmp_path: Path) -> None:
    artifact = "sha256:" + "0" * 64
    text = f'alignment = "bytes"\n{RUN}'.replace('"model"', f'"{artifact}"')
    wish = to_create(load_run_file(write(tmp_path, text), {}), Client("http://127.0.0.1:1", "k"), base=tmp_path)
    assert wish.alignment == "bytes"
    plain = {"recipe": "opd", "student": "m", "data": {"kind": "task", "task": "t"}}
    assert parse_run(plain, where="x").alignment == "ids"
    with pytest.raises(Invalid, match="alignment"):
        load_run_file(write(tmp_path, text), {"alignment": "words"})


def test_a_run_file_may_pin_a_skill_bank() -> None:
    content = {"recipe": "sgsd", "student": "sha256:" + "0" * 64, "data": {"kind": "task", "task": "spell_backward"}}
    file = parse_run({**content, "skills": "words@3"}, where="run.toml")
    with Client("http://127.0.0.1:9", "unused") as client:
        assert to_create(file, client, base=Path()).skills == "words@3"
