"""The copy that writes ahead: it holds still while the student moves, and shares what nobody trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preceptor.wire.training import Training
from preceptor_trainer import recipes
from preceptor_trainer.learner import Learner
from preceptor_trainer.loop import train
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.reporting import Signal
from preceptor_trainer.snapshot import Snapshot, own_tokenizer
from preceptor_trainer.student import open_student
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run

LORA = {"rank": 2, "targets": ["q_proj"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def opened(folder: Path, **settings: object) -> tuple[Model, Learner, Snapshot]:
    training = Training.model_validate(settings)
    student = open_student(folder, training).model
    learner = Learner(recipes.load("opsd"), student, training)
    return student, learner, Snapshot(student, open_student(folder, training).model)


@torch.no_grad()
def move(model: Model) -> None:
    for each in model.module.parameters():
        if each.requires_grad:
            each.add_(1.0)


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.module(torch.tensor([[5, 6, 7]])).logits


@pytest.mark.parametrize("settings", [{}, {"lora": LORA}, {"precision": "bf16"}, {"gradient_checkpointing": True}])
def test_it_moves_when_it_is_told_to_and_not_before(folder: Path, settings: dict[str, object]) -> None:
    student, learner, snapshot = opened(folder, **settings)
    before = logits(student)
    assert torch.equal(logits(snapshot.model), before)
    move(student)
    learner.version = 7
    assert torch.equal(logits(snapshot.model), before)
    assert snapshot.refresh(learner) == 7
    assert torch.equal(logits(snapshot.model), logits(student))
    assert not torch.equal(logits(student), before)
    assert all(each.grad is None and not each.requires_grad for each in snapshot.model.module.parameters())


def test_what_a_lora_student_does_not_train_is_held_once(folder: Path) -> None:
    student, _, snapshot = opened(folder, lora=LORA)
    mine = dict(snapshot.model.module.named_parameters())
    shared = {name for name, each in student.module.named_parameters() if each.data_ptr() == mine[name].data_ptr()}
    assert shared == {name for name, each in student.module.named_parameters() if not each.requires_grad}
    assert shared


@pytest.mark.parametrize("settings", [{"lora": LORA}, {"precision": "bf16"}, {"gradient_checkpointing": True}])
def test_a_run_may_write_ahead_whatever_its_student_is(
    folder: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    which = recipes.load("opsd").override({"rollout": {"max_tokens": 6, "samples": 2}})
    reporter = Remembering()
    run = toy_run(which, max_lag=1, **settings)
    ended = train(run, folder, ToyData(), LocalScorer({"self": load_model(folder)}), reporter, tmp_path)
    assert ended.signal is Signal.GO and len(reporter.steps) == 4
    assert max(report.metrics["lag"] for report in reporter.steps) <= 1


def test_every_thread_has_a_tokenizer_of_its_own(folder: Path) -> None:
    model = load_model(folder)
    own = own_tokenizer(model)
    assert own.module is model.module and own.tokenizer is not model.tokenizer
    assert own.tokenizer.encode("abc") == model.tokenizer.encode("abc")
