"""A run whose teacher takes 200 ms longer for every call: how much of its time the learner waits for scores.

The loop that workers run, with SmolLM2 as student and, in the same process, as its own teacher; only the delay is made
up. Waiting for rollouts that are still being written is not waiting for scores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import torch
from of_learner.runs import Told, a_run
from of_teacher.answers import HASH, stamp
from of_teacher.pairs import Ratios

from preceptor.fingerprint import tokenizer_file
from preceptor.ledgers import total
from preceptor.wire.runs import StepReport, TeacherLedger
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card, Limits, Support
from preceptor.wire.tokenizers import TokenizerFile
from preceptor_trainer import recipes
from preceptor_trainer.loop import train
from preceptor_trainer.model import Model, head_of, load_model
from preceptor_trainer.resolve import resolve_model
from preceptor_trainer.scoring import score
from preceptor_trainer.verifiers import Exact
from preceptor_trainer.views import Message, Task

DELAY_SECONDS = 0.2
SHARE = 0.1
"""Largest share of the time, at max_lag 1."""


def overlap(ratios: Ratios, threads: int, small: bool) -> None:
    """Shares of the steps' time; the first step, which nothing is ahead of, is left out."""
    for max_lag, bar in ((0, None), (1, SHARE)):
        steps = _run(threads, max_lag, small)[1:]
        wall = sum(step.metrics["seconds"] for step in steps)
        ledger = total(step.ledger for step in steps)
        sizes = {"steps": len(steps), "s": round(wall, 2)}
        sizes |= {f"{stage}_s": round(ledger.seconds[stage], 2) for stage in ("sample", "score", "learn")}
        waited = ledger.idle.get("learn/scores", 0.0) / wall
        ratios.add(f"overlap.waits_for_scores.max_lag_{max_lag}", waited, bar, sizes, at_most=True)


def _run(threads: int, max_lag: int, small: bool) -> list[StepReport]:
    folder = resolve_model("smollm2")
    recipe = recipes.load("opsd").override({"rollout": {"samples": 4, "max_tokens": 4 if small else 32}})
    run = a_run(
        "opsd",
        recipe,
        steps=2 if small else 6,
        batch=2 if small else 8,
        threads=threads,
        max_lag=max_lag,
    )
    torch.manual_seed(0)
    told = Told()
    with tempfile.TemporaryDirectory() as work:
        train(run, folder, _Sums(), _Slow(load_model(folder)), told, Path(work))
    return told.steps


class _Slow:
    """The student's first weights as its teacher, every call `DELAY_SECONDS` late."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._head = head_of(model.module)

    def begin(self, step: int) -> Collection[str]:
        return ()

    def begin_again(self) -> Collection[str]:
        return ()

    def score(self, role: str, request: ScoreRequest, **options: Any) -> Scores:
        time.sleep(DELAY_SECONDS)
        hashes = tuple(f"sha256:{index:064x}" for index in range(len(request.contexts)))
        said_by = stamp(teacher=role, model="smollm2", head_hash=HASH, context_hashes=hashes)
        return Scores.stamped(score(self._model, request), said_by)

    def chat(self, role: str, request: object, **options: Any) -> NoReturn:
        raise NotImplementedError("the recipe asks nobody for text")

    def card(self, role: str) -> Card:
        return Card(
            teacher=role,
            model="smollm2",
            weights_version=0,
            engine="bench",
            device="cpu",
            dtype="float32",
            tokenizer=self._model.card,
            limits=Limits(max_tokens=2048, max_batch_tokens=65536, max_k=64, max_body_bytes=2**30),
            supports=tuple(Support),
        )

    def tokenizer(self, role: str) -> TokenizerFile:
        return tokenizer_file(self._model.folder)

    def head(self, role: str, hash: str | None = None, **settings: Any) -> Head:
        return Head(hash=HASH, weight_VD=self._head.weight_VD.detach().numpy(), bias_V=None)

    def take_ledger(self) -> dict[str, TeacherLedger]:
        return {}


class _Sums:
    """Sums to be answered; what is right does not matter here."""

    name = "sums"
    columns = frozenset({"answer", "reference"})
    verifier = Exact()

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        return [self._task(Random(f"{seed}/{step}/{index}")) for index in range(batch)]

    def held_out(self, count: int) -> list[Task]:
        return [self._task(Random(f"held/{index}")) for index in range(count)]

    def _task(self, rng: Random) -> Task:
        one, other = rng.randrange(10**6), rng.randrange(10**6)
        question = f"What is {one} + {other}?"
        answer = str(one + other)
        return Task(
            id=question,
            messages=(Message(role="user", content=question),),
            answer=answer,
            reference=f"{one} + {other} = {answer}",
        )
