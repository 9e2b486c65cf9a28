"""The experts' example: its baselines do what they say, and its verdict is the table's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from examples.experts import __main__ as example
from examples.experts.baselines import WEIGHTS, answered, averaged
from preceptor_trainer.model import load_model
from preceptor_trainer.views import Message, Task
from tests.models import tiny_model_folder


def test_the_mean_of_two_models_is_a_model(tmp_path: Path) -> None:
    one, other = (tiny_model_folder(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    merged = averaged([one, other], tmp_path / "merged")
    weights = load_file(merged / WEIGHTS)
    theirs = [load_file(folder / WEIGHTS) for folder in (one, other)]
    assert weights.keys() == theirs[0].keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, (theirs[0][name] + theirs[1][name]) / 2)
    assert load_model(merged).module.config == load_model(one).module.config


def test_every_question_is_answered_once_by_its_own_specialist(tmp_path: Path) -> None:
    folders = {domain: tiny_model_folder(tmp_path / domain, seed=seed) for seed, domain in enumerate(("a", "b"), 1)}
    questions = [
        Task(
            id=f"{n % 3}",
            messages=(Message(role="user", content=f"{n % 3}?"),),
            answer=f"{n % 3}",
            columns={"domain": "ab"[n % 3 % 2]},
        )
        for n in range(6)
    ]
    assert answered(questions, folders, 8, tmp_path / "both.jsonl") == 3
    rows = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    assert sorted(row["answer"] for row in rows) == ["0", "1", "2"]
    answered([replace(each, columns={"domain": "a"}) for each in questions], folders, 8, tmp_path / "one.jsonl")
    alone = {
        row["answer"]: row["reference"] for row in map(json.loads, (tmp_path / "one.jsonl").read_text().splitlines())
    }
    for row in rows:
        assert row["domain"] == "ab"[int(row["answer"]) % 2]
        assert (row["reference"] == alone[row["answer"]]) is (row["domain"] == "a")


@pytest.mark.parametrize(("right", "code"), [(100, 0), (96, 0), (94, 1)])
def test_the_student_has_to_be_within_five_points_of_both(
    right: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = [True] * 100, [True] * right + [False] * (100 - right)
    rows = ["start", "specialist: letters", "specialist: codes", "fine-tuned on answers", "weights merged"]
    grid = {name: {domain: whole for domain in example.ALONE} for name in rows}
    grid["student"] = {"letters": whole, "codes": part}
    assert example.verdict(grid, example.PLAN, 12.34, Console()) == code
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["within_5_points"] is (code == 0) and last["gaps"] == {
        "letters": 0.0,
        "codes": round(1 - right / 100, 4),
    }
    assert last["models"]["student"]["codes"]["share"] == right / 100
