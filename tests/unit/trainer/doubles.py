"""Doubles at the trainer's two seams: teachers in the process instead of over HTTP, and a reporter that remembers.

The real things are tested where they live: the pool in the SDK's tests, both together in the platform tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from preceptor.fingerprint import tokenizer_file
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Evaluation, OnFailure, Run, Sample, StepReport, TeacherLedger, Training
from preceptor.wire.score import Head as WireHead
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card, Limits, Stamp, Support, Values
from preceptor.wire.tokenizers import TokenizerFile
from preceptor.wire.weights import WeightsKind
from preceptor_trainer.lora import put_adapter
from preceptor_trainer.model import Model, head_of
from preceptor_trainer.recipe import Recipe, Verifier
from preceptor_trainer.reporting import Signal
from preceptor_trainer.scoring import score
from preceptor_trainer.trained import Trained
from preceptor_trainer.verifiers import Exact
from preceptor_trainer.views import Message, Task


class LocalScorer:
    """Every role answered by models of this process, through the engine that the teacher service uses."""

    def __init__(self, models: dict[str, Model], writes: Callable[[str, ChatRequest], Reply] | None = None) -> None:
        """`writes`: what a role writes when it is asked for text."""
        self._models = models
        self._writes = writes
        self.asked: list[tuple[str, ScoreRequest]] = []
        self.hash = HEAD
        """Of the head, as scores name it."""

    def begin(self, step: int) -> Collection[str]:
        return ()

    def begin_again(self) -> Collection[str]:
        return ()

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        self.asked.append((role, request))
        return Scores.stamped(score(self._models[role], request), self._stamp(role, request))

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        assert self._writes is not None, "nobody writes here"
        return self._writes(role, request)

    def card(self, role: str) -> Card:
        model = self._models[role]
        return Card(
            teacher=role,
            model="tiny",
            weights_version=0,
            engine="test",
            device="cpu",
            dtype="float32",
            tokenizer=model.card,
            limits=Limits(max_tokens=512, max_batch_tokens=65536, max_k=64, max_body_bytes=2**28),
            supports=tuple(Support),
        )

    def tokenizer(self, role: str) -> TokenizerFile:
        return tokenizer_file(self._models[role].folder)

    def head(self, role: str, hash: str | None = None, **settings: Any) -> WireHead:
        weight_VD, bias_V = head_of(self._models[role].module)
        return WireHead(
            hash=self.hash,
            weight_VD=weight_VD.detach().numpy(),
            bias_V=None if bias_V is None else bias_V.detach().numpy(),
        )

    def take_ledger(self) -> dict[str, TeacherLedger]:
        return {}

    def _stamp(self, role: str, request: ScoreRequest) -> Stamp:
        return Stamp(
            teacher=role,
            model="tiny",
            weights_version=0,
            head_hash=self.hash,
            engine="test",
            device="cpu",
            dtype="float32",
            temperature=1.0,
            values=Values.RAW,
            context_hashes=tuple("sha256:" + f"{index:064x}" for index in range(len(request.contexts))),
            queued_seconds=0.0,
            computed_seconds=0.0,
        )


HEAD = "sha256:" + "0" * 64


class Remembering:
    """A reporter that keeps everything it is told, and says stop when asked to."""

    def __init__(self, signal: Callable[[int], Signal] = lambda step: Signal.GO) -> None:
        self._signal = signal
        self.steps: list[StepReport] = []
        self.samples: list[Sample] = []
        self.evaluations: list[Evaluation] = []
        self.checkpoints: list[tuple[int, Path]] = []
        self.notes: list[Mapping[str, object]] = []
        self.held: list[HeldDebate] = []

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal:
        self.steps.append(report)
        self.samples.extend(samples)
        return self._signal(report.step)

    def signal(self) -> Signal:
        return Signal.GO

    def evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def checkpoint(self, folder: Path, step: int) -> None:
        self.checkpoints.append((step, folder))

    def note(self, data: Mapping[str, object], step: int) -> None:
        self.notes.append(data)

    def debates(self, held: Sequence[HeldDebate]) -> None:
        self.held += held

    @property
    def losses(self) -> list[float]:
        return [report.metrics["loss"] for report in self.steps]


class Served:
    """A publisher whose teacher is the model that a `LocalScorer` answers with: live at once, as over HTTP."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.sent: list[Trained] = []

    def publish(self, role: str, weights: Trained) -> None:
        assert role == "self"
        self.sent.append(replace(weights, tensors={name: each.clone() for name, each in weights.tensors.items()}))
        if weights.kind is WeightsKind.LORA:
            put_adapter(self._model, weights.tensors, "the teacher")
        else:
            with torch.no_grad():
                for name, each in self._model.module.named_parameters():
                    each.copy_(weights.tensors[name])


class ToyData:
    """Two-letter words and their reversal."""

    name = "toy"
    columns = frozenset({"answer", "reference"})
    verifier: Verifier = Exact()

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        rng = Random(f"{seed}/{step}")
        return [self._task(rng) for _ in range(batch)]

    def held_out(self, count: int) -> list[Task]:
        rng = Random("held out")
        return [self._task(rng) for _ in range(count)]

    def _task(self, rng: Random) -> Task:
        word = "".join(rng.choice("abcd") for _ in range(4))
        return Task(
            id=word,
            messages=(Message(role="user", content=f"{word}?"),),
            answer=word[::-1],
            reference=f"it is {word[::-1]}",
        )


def toy_run(recipe: Recipe, **training: object) -> Run:
    """A run of a recipe, small and seeded."""
    now = "2026-01-01T00:00:00Z"
    settings = {"steps": 4, "batch": 3, "evaluate_items": 4, "evaluate_every": 2, "checkpoint_every": 2, **training}
    return Run.model_validate(
        {
            "id": "run-1",
            "name": "toy",
            "recipe": "test",
            "overrides": {},
            "resolved": recipe.model_dump(mode="json"),
            "student": "sha256:" + "0" * 64,
            "teachers": {},
            "data": {"kind": "task", "task": "toy"},
            "training": Training.model_validate(settings),
            "state": "running",
            "step": 0,
            "created_at": now,
            "updated_at": now,
        }
    )


def weights_of(model: Model) -> torch.Tensor:
    """All weights in one vector."""
    return torch.cat([each.detach().flatten() for each in model.module.parameters()])
