"""A run whose rollouts a server writes: weights out after every step, token ids and log-probabilities back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_services.worker.sampler import PoolSampler
from preceptor_trainer import recipes
from preceptor_trainer.loop import Ended, Signal, train
from preceptor_trainer.model import load_model
from tests.contract.teaching import KEY, URL, Teaching, teaching
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run, weights_of


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLER_KEY", KEY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("student"))


class Writer(HfBackend):
    """The hf backend, which remembers what it wrote and may be made to misbehave."""

    change: Callable[[Written], Written | None] = staticmethod(lambda written: written)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.wrote: list[Written] = []

    def write(self, wanted: WriteRequest, between: Callable[[], object]) -> Iterator[Sequence[Written]]:
        for finished in super().write(wanted, between):
            changed = [each for each in map(self.change, finished) if each is not None]
            self.wrote.extend(changed)
            yield changed


@pytest.fixture
def backend(folder: Path) -> Writer:
    return Writer(folder)


@pytest.fixture
def taught(backend: Writer) -> Iterator[Teaching]:
    with teaching(backend, teacher_takes_weights=True) as taught:
        yield taught


def go(
    taught: Teaching | None, folder: Path, work: Path, resume: Path | None = None, signal: Any = None, **training: Any
) -> tuple[Ended, Remembering]:
    """A run whose rollouts `taught` writes; None: the loop itself."""
    recipe = recipes.load("opsd").override({"rollout": {"max_tokens": 8, "samples": 2}})
    run = toy_run(recipe, **{"learning_rate": 5e-3, "warmup_steps": 0, **training})
    run = run.model_copy(update={"sampler": None if taught is None else "pen"})
    reporter = Remembering(signal or (lambda step: Signal.GO))
    scorer = LocalScorer({"self": load_model(folder)})
    work.mkdir()
    if taught is None:
        return train(run, folder, ToyData(), scorer, reporter, work, resume), reporter
    endpoint = TeacherEndpoint(name="pen", url=URL, key_env="SAMPLER_KEY", card=taught.client.card())
    with TeacherPool({"sampler": endpoint}, work / "heads", transport=taught.bridge) as pool:
        remote = PoolSampler(pool, WeightsPublisher(pool, folder))
        return train(run, folder, ToyData(), scorer, reporter, work, resume, sampler=remote), reporter


@pytest.mark.parametrize("adapters", [None, {"rank": 4, "alpha": 8}])
def test_what_a_server_writes_is_what_the_student_would_have(
    taught: Teaching, backend: Writer, folder: Path, tmp_path: Path, adapters: dict[str, Any] | None
) -> None:
    """The hf backend is the trainer's own sampler: with the weights of every step it writes the same tokens."""
    assert taught.client.card().writes
    ended, there = go(taught, folder, tmp_path / "there", lora=adapters)
    local, here = go(None, folder, tmp_path / "here", lora=adapters)
    versions = sorted({each.weights_version for each in backend.wrote})
    assert versions == list(range(versions[0], versions[0] + 4)), "each step's rollouts by that step's weights"
    assert there.losses == pytest.approx(here.losses, abs=1e-5)
    for step in there.steps:
        assert step.metrics["sampler_gap/largest"] < 1e-5 and step.metrics["sampler_kl"] < 1e-9
        assert step.metrics["sampler_beyond"] == 0 and step.metrics["lag"] == 0
    assert ended.model is not None and local.model is not None
    if adapters is None:
        assert torch.allclose(weights_of(load_model(ended.model)), weights_of(load_model(local.model)), atol=1e-4)
