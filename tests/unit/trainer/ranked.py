"""Runs of ranks in tests: the loop with teachers in the process, here alone, or in processes that torchrun starts.

    torchrun ... -m tests.unit.trainer.ranked PLANS.json

The first rank writes what its reporter was told below each plan's folder. A self-teacher that moves is one service for
all ranks: here a folder that the first rank publishes to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, nan
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.errors import Interrupted, TeacherUnavailable
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Evaluation, OnFailure, Sample, StepReport
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Stamp
from preceptor_trainer import learner, recipes
from preceptor_trainer.batch import Batch
from preceptor_trainer.loop import train
from preceptor_trainer.loss import NonFiniteLoss, fold
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.ranks import Ranks, joined
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.reporting import Signal
from preceptor_trainer.together import Together
from preceptor_trainer.trained import Trained
from tests.unit.trainer.doubles import LocalScorer, Remembering, Served, ToyData, toy_run

ROOT = Path(__file__).parents[3]
_NEWS = TypeAdapter[dict[str, str | None] | None](dict[str, str | None] | None)
_SAID = TypeAdapter(tuple[int, str, tuple[float, ...]])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run."""

    folder: str
    """The student's, and its teachers'."""
    work: str
    recipe: str = "opsd"
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    resume: str | None = None
    stop: int | None = None
    """The step after which it is told to stop."""
    poison: int | None = None
    """The step in which the last rank's loss is not finite, and nobody else's."""
    teachers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Folders of teachers with weights of their own, by role."""
    refilled: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """Folders of those who fill these roles from step 2 on, None: nobody; the first rank hears of it in step 1."""
    hangs: bool = False
    """They are to do so from step 3 on, and in step 2 nobody answers the last rank until they do."""
    says: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """What roles write when they are asked for text, now this and now that by what they are asked; nothing: nobody
    does."""
    gone: Sequence[str] = ()
    """Roles that never answer a request for scores."""


@dataclass(frozen=True)
class Told:
    """What the first rank's reporter was told."""

    steps: list[StepReport]
    samples: list[Sample]
    evaluations: list[Evaluation]
    checkpoints: list[tuple[int, str]]
    notes: list[dict[str, Any]]
    held: list[HeldDebate]
    signal: str
    model: str | None
    kept_step: int | None

    @property
    def losses(self) -> list[float]:
        return [each.metrics["loss"] for each in self.steps]


def alone(plan: Plan) -> Told:
    """A run in this process."""
    try:
        _run(Ranks(), plan)
    finally:
        learner.fold = fold
    return _told(plan)


def together(plans: Sequence[Plan], ranks: int = 2) -> list[Told]:
    """Runs one after another, each on so many ranks."""
    path = Path(plans[0].work).with_suffix(".json")
    path.write_text(json.dumps([asdict(plan) for plan in plans]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "tests.unit.trainer.ranked", str(path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-6000:]
    return [_told(plan) for plan in plans]


def _told(plan: Plan) -> Told:
    said: dict[str, Any] = json.loads((Path(plan.work) / "told.json").read_text())
    return Told(
        steps=[StepReport.model_validate(each) for each in said.pop("steps")],
        samples=[Sample.model_validate(each) for each in said.pop("samples")],
        evaluations=[Evaluation.model_validate(each) for each in said.pop("evaluations")],
        held=[HeldDebate.model_validate(each) for each in said.pop("held")],
        **said,
    )


def _run(ranks: Ranks, plan: Plan) -> None:
    recipe = recipes.load(plan.recipe).override(plan.overrides)
    work = Path(plan.work)
    mine = work if ranks.first else work / f"rank-{ranks.rank}"
    if ranks.first:
        work.mkdir(parents=True)
    ranks.wait()
    reporter = Remembering(lambda step: Signal.STOP if step == plan.stop else Signal.GO)
    teacher = load_model(plan.folder)
    learner.fold = _poisoned(plan.poison if ranks.rank == ranks.count - 1 else None)
    scorer = _Following(teacher, recipe.roles, work / "published", plan.teachers)
    scorer.says, scorer.gone = plan.says, plan.gone
    if plan.hangs:
        scorer.from_step, scorer.hangs_in = 3, 2 if ranks.rank == ranks.count - 1 else None
    news = [plan.refilled] if plan.refilled else []
    told = Together(
        ranks,
        reporter if ranks.first else None,
        lambda: news.pop() if news else None,
        lambda each: scorer.refill(each),
        _NEWS,
        hangs=scorer.waits.is_set,
    )
    ended = train(
        toy_run(recipe, **plan.training),
        Path(plan.folder),
        ToyData(),
        scorer,
        told,
        mine,
        None if plan.resume is None else Path(plan.resume),
        _Published(teacher, work / "published"),
        ranks=ranks,
    )
    if not ranks.first:
        assert not mine.exists() and not reporter.steps and ended.result is None, "only the first rank writes and tells"
        return
    told = {
        "steps": [each.model_dump(mode="json") for each in reporter.steps],
        "samples": [each.model_dump(mode="json") for each in reporter.samples],
        "evaluations": [each.model_dump(mode="json") for each in reporter.evaluations],
        "checkpoints": [(step, str(folder)) for step, folder in reporter.checkpoints],
        "notes": reporter.notes,
        "held": [each.model_dump(mode="json") for each in reporter.held],
        "signal": ended.signal,
        "model": None if ended.model is None else str(ended.model),
        "kept_step": None if ended.result is None else ended.result.kept_step,
    }
    (work / "told.json").write_text(json.dumps(told))


def _exchange(ranks: Ranks) -> None:
    """What every rank has reaches all others as it was: values of other lengths, tensors of other shapes and types."""
    told = [(at, "é\x00" * 1000 * at, (nan, inf, -0.0, 0.1 + at)) for at in range(ranks.count)]
    assert repr(ranks.every(told[ranks.rank], _SAID)) == repr(told)
    assert repr(ranks.told(told[ranks.rank], _SAID)) == repr(told[0])
    assert not ranks.all(ranks.first) and ranks.all(True)
    kinds = (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
    held = [
        {str(kind): (torch.arange(3 * at).view(at, 3) % 2).to(kind).t() for kind in kinds} for at in range(ranks.count)
    ]
    shared = held[ranks.rank]
    for own, theirs in zip(held, ranks.every_tensor(shared | {"same memory": shared["torch.bool"]}), strict=True):
        _alike(theirs, own | {"same memory": own["torch.bool"]})
    last = {"of": torch.full((2, 3), 0.1).t(), "narrow": torch.ones(0, dtype=torch.bfloat16)}
    _alike(ranks.copied(last if ranks.first else {}), last)


def _alike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        assert found[name].dtype == each.dtype and torch.equal(found[name], each), name


def _poisoned(step: int | None) -> Any:
    def poisoned(recipe: Recipe, batch: Batch, *rest: Any) -> Any:
        if batch.step == step:
            raise NonFiniteLoss(f"objective[0] gave nan at step {step}")
        return fold(recipe, batch, *rest)

    return poisoned


class _Published(Served):
    """To a folder too, for other ranks' teachers."""

    def __init__(self, teacher: Model, folder: Path) -> None:
        super().__init__(teacher)
        self._folder = folder

    def publish(self, role: str, weights: Trained) -> None:
        super().publish(role, weights)
        self._folder.mkdir(exist_ok=True)
        save_file(dict(weights.tensors), self._folder / f"{len(self.sent)}.safetensors")


class _Following(LocalScorer):
    """Answers by the weights that were published last."""

    def __init__(self, teacher: Model, roles: frozenset[str], folder: Path, others: Mapping[str, str]) -> None:
        super().__init__(dict.fromkeys(roles, teacher) | {role: load_model(each) for role, each in others.items()})
        self._teacher, self._folder, self._seen = teacher, folder, 0
        self._refilled: Mapping[str, str | None] = {}
        self._step, self.from_step = 0, 2
        self.says: Mapping[str, Sequence[str]] = {}
        self.gone: Sequence[str] = ()
        self.hangs_in: int | None = None
        self.waits, self._broken_off = threading.Event(), threading.Event()

    def refill(self, wanted: Mapping[str, str | None]) -> None:
        """Who fills these roles from `from_step` on."""
        self._refilled = wanted

    def begin(self, step: int) -> Collection[str]:
        self._step = step
        if step < self.from_step:
            return ()
        self._models |= {role: load_model(each) for role, each in self._refilled.items() if each is not None}
        return {role for role, each in self._refilled.items() if each is None}

    def begin_again(self) -> Collection[str]:
        self.from_step = 0
        self.waits.clear()
        self._broken_off.set()
        return self._refilled.keys()

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        if not (texts := self.says[role]):
            raise TeacherUnavailable("Nobody writes.", teacher=role)
        return Reply(text=texts[crc32(request.messages[-1].content.encode()) % len(texts)], finished=True, tokens=3)

    def head(self, role: str, hash: str | None = None, **settings: Any) -> Head:
        return replace(super().head(role, hash), hash=self._hash(role))

    def _stamp(self, role: str, request: ScoreRequest) -> Stamp:
        return super()._stamp(role, request).model_copy(update={"head_hash": self._hash(role)})

    def _hash(self, role: str) -> str:
        return f"sha256:{crc32(str(self._models[role].folder).encode()):064x}"

    @torch.no_grad()
    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        if self._step == self.hangs_in and not self._broken_off.is_set():
            self.waits.set()
            self._broken_off.wait()
            raise Interrupted("It hangs.", teacher=role)
        if role in self.gone:
            raise TeacherUnavailable("Nobody answers.", teacher=role)
        last = len(list(self._folder.glob("*.safetensors")))
        if last > self._seen:
            weights = load_file(self._folder / f"{last}.safetensors")
            for name, each in self._teacher.module.named_parameters():
                each.copy_(weights[name])
            self._seen = last
        return super().score(role, request, on_failure=on_failure)


def main(arguments: Sequence[str]) -> None:
    plans = [Plan(**each) for each in json.loads(Path(arguments[0]).read_text())]
    with joined() as ranks:
        _exchange(ranks)
        for plan in plans:
            _run(ranks, plan)


if __name__ == "__main__":
    main(sys.argv[1:])
