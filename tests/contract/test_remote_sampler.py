"""A run whose rollouts a server writes: weights out before every step, token ids and log-probabilities back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.wire.write import WriteRequest, Written
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_trainer.model import load_model
from tests.contract.sampling import Stale, go
from tests.contract.teaching import Teaching, teaching
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("student"))


class Writer(HfBackend):
    """The hf backend, which remembers what it wrote and may be made to misbehave."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.wrote: list[Written] = []
        self.change: Callable[[Written], Sequence[Written]] = lambda written: [written]

    def write(self, wanted: WriteRequest, between: Callable[[], object]) -> Iterator[Sequence[Written]]:
        for finished in super().write(wanted, between):
            changed = [each for written in finished for each in self.change(written)]
            self.wrote.extend(changed)
            yield changed


@pytest.fixture
def backend(folder: Path) -> Writer:
    return Writer(folder)


@pytest.fixture
def taught(backend: Writer) -> Iterator[Teaching]:
    with teaching(backend, teacher_takes_weights=True) as taught:
        yield taught


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


def test_a_server_that_keeps_old_weights_shows_in_the_mismatch(taught: Teaching, folder: Path, tmp_path: Path) -> None:
    _, reporter = go(taught, folder, tmp_path / "work", wrapped=Stale, learning_rate=2e-2)
    first, *_, last = [step.metrics for step in reporter.steps]
    assert first["sampler_gap"] < 1e-5 and last["sampler_gap"] > 0.02 and last["sampler_kl"] > 1e-4
