"""A self-teacher that moves, over the wire: the student's weights become the teacher's, version by version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.errors import TeacherRefused
from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_trainer import recipes
from preceptor_trainer.loop import Ended, train
from preceptor_trainer.model import load_model
from preceptor_trainer.reporting import Signal
from tests.contract.teaching import KEY, URL, Teaching, teaching
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import Remembering, ToyData, toy_run, weights_of


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELF_KEY", KEY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("student"))


@pytest.fixture
def taught(folder: Path) -> Iterator[Teaching]:
    with teaching(HfBackend(folder), teacher_takes_weights=True) as taught:
        yield taught


def endpoint_of(taught: Teaching) -> TeacherEndpoint:
    return TeacherEndpoint(name="own", url=URL, key_env="SELF_KEY", card=taught.client.card())


def go(
    taught: Teaching,
    folder: Path,
    work: Path,
    update: dict[str, Any],
    signal: Callable[[int], Signal] = lambda step: Signal.GO,
    resume: Path | None = None,
    **training: Any,
) -> tuple[Ended, Remembering]:
    recipe = recipes.load("opsd").override({"rollout": {"max_tokens": 8}, "teacher": update})
    run = toy_run(recipe, **{"learning_rate": 5e-3, "warmup_steps": 0, **training})
    reporter, teachers = Remembering(signal), {"self": endpoint_of(taught)}
    work.mkdir()
    with TeacherPool(teachers, work / "heads", transport=taught.bridge) as pool:
        publisher = WeightsPublisher(pool, folder)
        return train(run, folder, ToyData(), pool, reporter, work, resume, publisher), reporter


def versions(reporter: Remembering) -> list[list[int]]:
    return [report.ledger.teachers["self"].weights_versions for report in reporter.steps]


@pytest.mark.parametrize("adapters", [None, {"rank": 4, "alpha": 8}])
def test_a_teacher_that_copies_the_student_scores_with_its_weights(
    taught: Teaching, folder: Path, tmp_path: Path, adapters: dict[str, Any] | None
) -> None:
    ended, reporter = go(taught, folder, tmp_path / "w", {"kind": "copy_every", "every": 1}, lora=adapters)
    (first,), *_ = versions(reporter)
    assert first > 0, "the student's own weights were sent before the first step"
    assert versions(reporter) == [[first], [first + 1], [first + 2], [first + 3]], "then what every step made of them"
    assert taught.client.card().weights_version == first + 4
    assert ended.model is not None
    end, still = tmp_path / "e", tmp_path / "f"
    _, trained = go(taught, ended.model, end, {"kind": "frozen"}, steps=1, learning_rate=1e-9)
    with teaching(HfBackend(ended.model)) as fresh:
        _, again = go(fresh, ended.model, still, {"kind": "frozen"}, steps=1, learning_rate=1e-9)
    # What was sent to it is what was written to disk: the live teacher's opinions are the folder's.
    assert trained.losses == pytest.approx(again.losses, abs=1e-6)


def test_a_killed_run_sends_its_teacher_what_the_checkpoint_holds(folder: Path, tmp_path: Path) -> None:
    update = {"kind": "ema", "decay": 0.5}

    def serve() -> Any:
        return teaching(HfBackend(folder), teacher_takes_weights=True)

    with serve() as taught:
        whole, everything = go(taught, folder, tmp_path / "whole", update)
    with serve() as taught:
        _, head = go(taught, folder, tmp_path / "a", update, lambda step: Signal.STOP if step == 2 else Signal.GO)
        # The teacher moved on before the process died: the next attempt takes it back.
        taught.client.load_weights({name: each.numpy() for name, each in moved(folder).items()})
        ended, tail = go(taught, folder, tmp_path / "b", update, resume=head.checkpoints[-1][1])
    assert head.losses + tail.losses == everything.losses
    assert versions(tail)[0][0] > versions(head)[-1][0] + 1, "numbers only go up"
    assert ended.model is not None and whole.model is not None
    assert torch.equal(weights_of(load_model(ended.model)), weights_of(load_model(whole.model)))


def moved(folder: Path) -> dict[str, torch.Tensor]:
    model = load_model(folder)
    return {name: each.detach() + 0.1 for name, each in model.module.named_parameters()}


def test_weights_of_another_model_are_refused_before_the_first_step(
    taught: Teaching, folder: Path, tmp_path: Path
) -> None:
    other = tiny_model_folder(tmp_path / "other", hidden=48)
    with pytest.raises(TeacherRefused, match=r"Teacher 'own' refused this run's weights: ") as caught:
        go(taught, other, tmp_path / "w", {"kind": "ema"})
    assert caught.value.problem.remedy
    assert taught.client.card().weights_version == 0
