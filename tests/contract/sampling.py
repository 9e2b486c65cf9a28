"""A run of the loop whose rollouts a teacher's service writes, over the SDK."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_services.worker.sampler import PoolSampler
from preceptor_trainer import recipes
from preceptor_trainer.loop import Ended, train
from preceptor_trainer.model import load_model
from preceptor_trainer.reporting import Signal
from preceptor_trainer.samplers import Remote
from preceptor_trainer.trained import Trained
from tests.contract.teaching import KEY, URL, Teaching
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run

OVERRIDES = {"rollout": {"max_tokens": 8, "samples": 2}}


def go(
    taught: Teaching | None,
    folder: Path,
    work: Path,
    *,
    overrides: Mapping[str, Any] = OVERRIDES,
    wrapped: Callable[[Any], Remote] = lambda remote: remote,
    signal: Callable[[int], Signal] = lambda step: Signal.GO,
    resume: Path | None = None,
    **training: Any,
) -> tuple[Ended, Remembering]:
    """`opsd` from `folder`, whose rollouts `taught` writes; None: the loop itself. `wrapped` stands between the two."""
    run = toy_run(
        recipes.load("opsd").override(overrides), **{"learning_rate": 5e-3, "warmup_steps": 0, **training}
    ).model_copy(update={"sampler": None if taught is None else "pen"})
    reporter, scorer = Remembering(signal), LocalScorer({"self": load_model(folder)})
    work.mkdir()
    if taught is None:
        return train(run, folder, ToyData(), scorer, reporter, work, resume), reporter
    os.environ.setdefault("SAMPLER_KEY", KEY)
    endpoint = TeacherEndpoint(name="pen", url=URL, key_env="SAMPLER_KEY", card=taught.client.card())
    settings: dict[str, Any] = {"transport": taught.bridge, "deadline": 20.0, "wait": 20.0}
    with TeacherPool({"sampler": endpoint}, work / "heads", **settings) as pool:
        remote = wrapped(PoolSampler(pool, WeightsPublisher(pool, folder)))
        return train(run, folder, ToyData(), scorer, reporter, work, resume, sampler=remote), reporter


class Stale:
    """A sampler that is sent weights once, and claims to have taken every later version too."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._version: int | None = None

    def publish(self, weights: Trained) -> int:
        if self._version is None:
            self._version = self._remote.publish(weights)
        return self._version

    def write(self, request: WriteRequest, check: Callable[[], None]) -> Iterator[Written]:
        return self._remote.write(request, check)
