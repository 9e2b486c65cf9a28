"""What a run keeps and how it goes on: adapters, schedules, masks and moving teachers resume exactly; the best student,
early stops, guards and full disks end in what was asked for."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.errors import Invalid
from preceptor.wire.runs import Evaluation, Run
from preceptor.wire.weights import WeightsKind
from preceptor_trainer import checkpoint, recipes
from preceptor_trainer.checkpoint import CheckpointError, load_state
from preceptor_trainer.evaluate import Evaluator
from preceptor_trainer.guards import TooManyRollbacks
from preceptor_trainer.learner import Learner
from preceptor_trainer.loop import Ended, train
from preceptor_trainer.loss import NonFiniteLoss
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.reporting import Signal
from preceptor_trainer.student import open_student
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, Served, ToyData, toy_run, weights_of

ADAPTERS = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


class Went:
    """How a run went."""

    def __init__(self, ended: Ended, reporter: Remembering, served: Served) -> None:
        self.ended, self.reporter, self.served = ended, reporter, served

    @property
    def model(self) -> Model:
        assert self.ended.model is not None
        return load_model(self.ended.model)


def go(
    folder: Path,
    work: Path,
    signal: Callable[[int], Signal] = lambda step: Signal.GO,
    resume: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    name: str = "opsd",
    teachers: Mapping[str, str] | None = None,
    **training: Any,
) -> Went:
    which = recipes.load(name).override({"rollout": {"max_tokens": 8}, **(recipe or {})})
    run = toy_run(which, **{"warmup_steps": 1, "learning_rate": 5e-3, **training})
    run = run.model_copy(update={"teachers": dict(teachers or {})})
    work.mkdir(exist_ok=True)
    reporter = Remembering(signal)
    teacher = open_student(folder, run.training).model
    scorer = LocalScorer({role: teacher for role in which.roles if role not in run.teachers})
    served = Served(teacher)
    return Went(train(run, folder, ToyData(), scorer, reporter, work, resume, served), reporter, served)


KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora": ADAPTERS},
    "lora with dropout": {"lora": {**ADAPTERS, "dropout": 0.2}},
    "lora on its own base": {"lora": ADAPTERS, "teachers": {"self": "base"}},
    "cosine": {"schedule": "cosine", "final_learning_rate": 1e-4},
    "bf16": {"precision": "bf16", "gradient_checkpointing": True},
    "sparse": {"recipe": {"constraint": {"kind": "sparse", "share": 0.2}}, "weight_decay": 0.1},
    "ema": {"recipe": {"teacher": {"kind": "ema", "decay": 0.5}}},
    "ema of adapters": {"recipe": {"teacher": {"kind": "ema", "decay": 0.5}}, "lora": ADAPTERS},
    "copy every": {"recipe": {"teacher": {"kind": "copy_every", "every": 2}}},
    "trust region": {"recipe": {"teacher": {"kind": "trust_region", "share": 0.3}}},
    "best": {"keep": "best", "evaluate_samples": 2, "evaluate_every": 1},
    "best of adapters": {"keep": "best", "evaluate_every": 1, "lora": ADAPTERS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_taken_up_again_continues_the_same_numbers(folder: Path, tmp_path: Path, kind: str) -> None:
    whole = go(folder, tmp_path / "whole", steps=5, **KINDS[kind])
    head = go(folder, tmp_path / "head", lambda step: Signal.STOP if step == 3 else Signal.GO, steps=5, **KINDS[kind])
    step, last = head.reporter.checkpoints[-1]
    assert step == 3 and head.ended.result is None
    tail = go(folder, tmp_path / "tail", resume=last, steps=5, **KINDS[kind])
    assert head.reporter.losses + tail.reporter.losses == whole.reporter.losses
    assert torch.equal(weights_of(tail.model), weights_of(whole.model))
    assert tail.ended.result is not None and whole.ended.result is not None
    assert tail.ended.result.kept_step == whole.ended.result.kept_step
    assert tail.ended.result.ci95 == whole.ended.result.ci95
    for one, other in zip(tail.served.sent[-1:], whole.served.sent[-1:], strict=True):
        assert all(torch.equal(other.tensors[name], each) for name, each in one.tensors.items())


def test_only_adapters_are_trained_and_checkpointed(folder: Path, tmp_path: Path) -> None:
    went = go(folder, tmp_path, lora=ADAPTERS)
    last = went.reporter.checkpoints[-1][1]
    assert {each.name for each in last.iterdir()} == {"adapter", "optimizer.safetensors", "state.json"}
    held = load_file(last / "adapter" / "adapter_model.safetensors")
    assert held and all(".lora_A." in name or ".lora_B." in name for name in held)
    assert all("lora_" in name for name in load_file(last / "optimizer.safetensors"))
    first, now = load_model(folder).module.state_dict(), went.model.module.state_dict()
    moved = {name for name, each in now.items() if not torch.equal(first[name], each)}
    assert moved and all("_proj." in name for name in moved), "only what has an adapter differs once it is merged"


def test_a_lora_student_is_taught_by_its_own_base_as_by_a_server_of_its_folder(folder: Path, tmp_path: Path) -> None:
    served = go(folder, tmp_path / "a", lora=ADAPTERS)
    own = go(folder, tmp_path / "b", lora=ADAPTERS, teachers={"self": "base"})
    assert own.reporter.losses == served.reporter.losses
    ledger = own.reporter.steps[0].ledger.teachers["self"]
    assert ledger.requests == 0 and ledger.sequences == 3 and ledger.tokens > 0
    assert {sample.stamps["reference"].teacher for sample in own.reporter.samples} == {"base"}


def test_a_student_that_trains_all_weights_is_taught_by_a_copy_of_what_it_began_as(
    folder: Path, tmp_path: Path
) -> None:
    served = go(folder, tmp_path / "a")
    own = go(folder, tmp_path / "b", teachers={"self": "base"})
    assert own.reporter.losses == served.reporter.losses
    assert own.reporter.steps[-1].ledger.teachers["self"].weights_versions == [0]


def test_an_ema_teacher_is_sent_the_average_of_the_student_s_weights(folder: Path, tmp_path: Path) -> None:
    went = go(folder, tmp_path, recipe={"teacher": {"kind": "ema", "decay": 0.75}}, steps=3, checkpoint_every=1)
    start = dict(load_model(folder).module.named_parameters())
    kinds = [(each.kind, each.scale) for each in went.served.sent]
    assert kinds == [(WeightsKind.FULL, None)] * 4, "before the first step, and after each"
    assert all(torch.equal(start[name], each) for name, each in went.served.sent[0].tensors.items())
    again = go(folder, tmp_path / "x", recipe={"teacher": {"kind": "copy_every", "every": 1}}, steps=1)
    first = again.served.sent[-1].tensors
    for name, each in went.served.sent[1].tensors.items():
        torch.testing.assert_close(each, 0.75 * start[name] + 0.25 * first[name], atol=1e-6, rtol=0)


def test_a_trust_region_ends_a_share_of_the_way_to_the_student(folder: Path, tmp_path: Path) -> None:
    went = go(folder, tmp_path, recipe={"teacher": {"kind": "trust_region", "share": 0.25}})
    start, student = dict(load_model(folder).module.named_parameters()), dict(went.model.module.named_parameters())
    for name, each in went.served.sent[-1].tensors.items():
        torch.testing.assert_close(each, 0.75 * start[name] + 0.25 * student[name], atol=1e-6, rtol=0)


def test_a_teacher_that_copies_is_left_alone_between(folder: Path, tmp_path: Path) -> None:
    went = go(folder, tmp_path, recipe={"teacher": {"kind": "copy_every", "every": 2}}, lora=ADAPTERS, steps=5)
    assert [(each.kind, each.scale) for each in went.served.sent] == [(WeightsKind.LORA, 2.0)] * 3


def test_nobody_to_publish_to_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    which = recipes.load("opsd").override({"teacher": {"kind": "ema"}})
    with pytest.raises(Invalid, match="this process publishes no weights"):
        train(toy_run(which), folder, ToyData(), LocalScorer({}), Remembering(), tmp_path)


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Mapping[int, float]) -> None:
    """Let evaluations come out so; the rest of them stays real."""
    real = Evaluator.evaluate

    def evaluate(self: Evaluator, step: int) -> Evaluation:
        return real(self, step).model_copy(update={"accuracy": scores[step]})

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)


@pytest.mark.parametrize("adapters", [None, ADAPTERS])
def test_the_best_student_is_kept_and_not_the_last(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: dict[str, Any] | None
) -> None:
    settings: dict[str, Any] = {"lora": adapters, "evaluate_every": 1, "checkpoint_every": 3}
    scripted(monkeypatch, {0: 0.1, 1: 0.2, 2: 0.5, 3: 0.5, 4: 0.3})
    went = go(folder, tmp_path / "best", keep="best", **settings)
    two = go(folder, tmp_path / "two", **{**settings, "steps": 2})
    assert went.ended.result is not None
    assert (went.ended.result.kept_step, went.ended.result.after, went.ended.result.steps) == (2, 0.5, 4)
    assert torch.equal(weights_of(went.model), weights_of(two.model))
    assert (went.reporter.checkpoints[-1][1] / "best").is_dir(), "whoever goes on from here has it"


def test_a_run_that_gets_no_better_ends(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {0: 0.1, 1: 0.4, 2: 0.42, 3: 0.3, 4: 0.9})
    stop = {"patience": 2, "min_gain": 0.05}
    went = go(folder, tmp_path, evaluate_every=1, early_stop=stop, keep="best", checkpoint_every=10)
    assert went.ended.signal is Signal.GO and went.ended.result is not None
    assert went.ended.result.stopped_early and went.ended.result.steps == 3
    assert (went.ended.result.kept_step, went.ended.result.after) == (2, 0.42)
    last = went.reporter.checkpoints[-1]
    again = go(folder, tmp_path / "b", resume=last[1], evaluate_every=1, early_stop=stop, keep="best")
    assert again.reporter.steps == [] and again.ended.result == went.ended.result, "it is not begun again"


def test_a_guard_that_warns_says_so_once_and_marks_every_step(folder: Path, tmp_path: Path) -> None:
    went = go(folder, tmp_path, guards={"entropy": {"threshold": 19.0}})
    assert [note["guard"] for note in went.reporter.notes] == ["entropy"]
    assert "below 19; the run goes on" in str(went.reporter.notes[0]["message"])
    assert [report.metrics["guard/entropy"] for report in went.reporter.steps] == [1.0] * 4
    assert all("repetition" in report.metrics for report in went.reporter.steps)


def test_a_guard_pauses_the_run_after_the_step_with_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    guards = {"entropy": {"threshold": 19.0, "action": "pause", "patience": 3}}
    went = go(folder, tmp_path, guards=guards, checkpoint_every=10)
    assert (went.ended.signal, went.ended.step) == (Signal.PAUSE, 3)
    assert [step for step, _ in went.reporter.checkpoints] == [3]
    assert load_state(went.reporter.checkpoints[0][1]).streaks == {"entropy": 3}


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: Sequence[int]) -> None:
    """Let the loss of these steps be no number."""
    real = Learner.learn

    def learn(self: Learner, batch: Any) -> dict[str, float]:
        if batch.step in steps:
            raise NonFiniteLoss(f"objective[0] (jsd) gave nan at step {batch.step}")
        return real(self, batch)

    monkeypatch.setattr(Learner, "learn", learn)


@pytest.mark.parametrize("adapters", [None, ADAPTERS])
def test_a_rollback_goes_on_from_the_last_checkpoint_with_other_tasks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: dict[str, Any] | None
) -> None:
    poisoned(monkeypatch, [3])
    settings: dict[str, Any] = {
        "guards": {"nonfinite": "rollback"},
        "lora": adapters,
        "recipe": {"teacher": {"kind": "ema", "decay": 0.5}},
    }
    went = go(folder, tmp_path / "a", steps=5, **settings)
    assert [report.step for report in went.reporter.steps] == [1, 2, 3, 4, 5]
    assert np.isnan(went.reporter.steps[2].metrics["loss"])
    assert [(note["guard"], note["action"]) for note in went.reporter.notes] == [("nonfinite", "rollback")]
    sent = [each.tensors for each in went.served.sent]
    assert all(torch.equal(sent[2][name], each) for name, each in sent[3].items()), "the teacher goes back too"
    assert load_state(went.reporter.checkpoints[-1][1]).rollbacks == 1
    # Killed after the rollback, the run is taken up from the checkpoint before it, and goes back again.
    again = go(folder, tmp_path / "b", lambda step: Signal.STOP if step == 2 else Signal.GO, steps=5, **settings)
    rest = go(folder, tmp_path / "c", resume=again.reporter.checkpoints[-1][1], steps=5, **settings)
    assert rest.reporter.losses[1:] == went.reporter.losses[3:]
    assert torch.equal(weights_of(rest.model), weights_of(went.model))


def test_a_rollback_before_the_first_checkpoint_goes_back_to_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, [2])
    went = go(folder, tmp_path, guards={"nonfinite": "rollback"}, steps=2, checkpoint_every=5)
    assert torch.equal(weights_of(went.model), weights_of(load_model(folder)))


def test_rollbacks_that_do_not_help_end_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, [1, 2, 3])
    with pytest.raises(TooManyRollbacks, match="one rollback more than the 2"):
        go(folder, tmp_path, guards={"nonfinite": "rollback", "max_rollbacks": 2})


def test_without_a_guard_what_is_no_number_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, [2])
    with pytest.raises(NonFiniteLoss, match="at step 2"):
        go(folder, tmp_path)
    poisoned(monkeypatch, [2])
    went = go(folder, tmp_path / "warned", guards={"nonfinite": "warn"})
    assert [report.metrics.get("nonfinite", 0.0) for report in went.reporter.steps] == [0, 1, 0, 0]


def kernel_refuses(tensors: dict[str, Tensor], path: Path) -> None:
    """The kernel takes no more bytes for this file: a real failure, through the library that writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        save_file(tensors, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def disk_is_full(tensors: dict[str, Tensor], path: Path) -> None:
    """What the library says of ENOSPC, in the words in which it says `kernel_refuses`'s EFBIG."""
    path.write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def disk_is_full_for_python(tensors: dict[str, Tensor], path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (kernel_refuses, "File too large.*; check the folder, its rights and its disk and resume"),
        (disk_is_full, "No space left on device.*; free some space and resume"),
        (disk_is_full_for_python, "No space left on device; free some space and resume"),
    ],
)
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., None], said: str
) -> None:
    def write(tensors: dict[str, Tensor], path: Path) -> None:
        (fails if "00000004" in str(path) else save_file)(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", write)
    reporter, work = Remembering(), tmp_path / "work"
    work.mkdir()
    run: Run = toy_run(recipes.load("sft"))
    with pytest.raises(CheckpointError, match=f"the checkpoint at step 4 could not be written to .*{said}"):
        train(run, folder, ToyData(), LocalScorer({}), reporter, work)
    assert [step for step, _ in reporter.checkpoints] == [2]
    assert [each.name for each in work.iterdir()] == ["checkpoint-00000002"], "nothing half-written is left"
    assert load_state(work / "checkpoint-00000002").step == 2
    monkeypatch.undo()
    ended = train(run, folder, ToyData(), LocalScorer({}), Remembering(), tmp_path, work / "checkpoint-00000002")
    assert ended.signal is Signal.GO and ended.step == 4


def test_the_length_of_the_first_step_is_what_a_blow_up_is_measured_by(folder: Path, tmp_path: Path) -> None:
    went = go(folder, tmp_path, guards={"length": {"threshold": 1.0001}}, steps=3)
    first = went.reporter.steps[0].metrics["completion_length"]
    for report in went.reporter.steps:
        assert report.metrics["guard/length"] == float(report.metrics["completion_length"] > 1.0001 * first)
