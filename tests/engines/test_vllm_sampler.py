"""A run whose rollouts a real vLLM writes: the student's weights go to it before every step, token ids come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preceptor_services.teacher.backends.vllm import connect
from tests.contract.sampling import Stale, go
from tests.contract.teaching import Teaching, teaching

pytestmark = pytest.mark.engines
OVERRIDES = {"rollout": {"max_tokens": 24, "samples": 4}}
LARGE = {"steps": 4, "batch": 4, "learning_rate": 1e-2, "evaluate_every": 4}
"""Steps after which the weights of the step before would write something else."""


@pytest.fixture
def taught(vllm_url: str, untied: Path, tmp_path: Path) -> Iterator[Teaching]:
    """Our service in front of it. Every test leaves it with weights of its own, and sends the student's first."""
    with connect(untied, vllm_url, device="cpu", dtype="float32") as backend:
        spool = {"teacher_takes_weights": True, "teacher_weights_dir": tmp_path / "spool"}
        with teaching(backend, **spool) as taught:
            yield taught


@pytest.mark.parametrize("adapters", [None, {"rank": 8, "alpha": 16}])
def test_what_it_writes_is_of_the_weights_that_learn(
    taught: Teaching, untied: Path, tmp_path: Path, adapters: dict[str, Any] | None
) -> None:
    """vLLM's kernels give other numbers than the learner's, in the last digits of float32."""
    assert taught.client.card().writes
    _, reporter = go(taught, untied, tmp_path / "run", overrides=OVERRIDES, lora=adapters, **LARGE)
    assert taught.client.card().weights_version >= 4, "a version a step"
    for step in reporter.steps:
        assert step.ledger.tokens["completion"] > 16
        assert 0 < step.metrics["sampler_gap"] < 1e-4 and step.metrics["sampler_gap/largest"] < 1e-3
        assert 0 <= step.metrics["sampler_kl"] < 1e-6 and step.metrics["sampler_beyond"] == 0
    assert all(sample.completion is not None for sample in reporter.samples)


def test_weights_that_did_not_arrive_would_show(taught: Teaching, untied: Path, tmp_path: Path) -> None:
    _, reporter = go(taught, untied, tmp_path / "run", overrides=OVERRIDES, wrapped=Stale, **LARGE)
    first, *later = [step.metrics for step in reporter.steps]
    assert first["sampler_gap"] < 1e-4
    assert later[-1]["sampler_gap"] > 0.05 and later[-1]["sampler_kl"] > 1e-3 and later[-1]["sampler_beyond"] > 0


def test_it_writes_ahead_within_the_lag(taught: Teaching, untied: Path, tmp_path: Path) -> None:
    """The gap is then of the weights that are one step older, too, and is corrected with the rest."""
    _, reporter = go(taught, untied, tmp_path / "run", overrides=OVERRIDES, **{**LARGE, "max_lag": 1, "steps": 6})
    lags = [step.metrics["lag"] for step in reporter.steps]
    assert max(lags) <= 1
    for step, lag in zip(reporter.steps, lags, strict=True):
        assert lag or step.metrics["sampler_gap"] < 1e-4
