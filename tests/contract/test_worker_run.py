"""A worker in this process does whole runs of a control plane in this process; people take out what came of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from preceptor.cli import exports
from preceptor.cli.main import main
from preceptor.client import Client
from preceptor.wire.data import DatasetSource, DataSpec, TaskSource
from preceptor.wire.runs import Run, RunState
from preceptor_services.worker.advance import Bench, advance
from preceptor_services.worker.cache import ArtifactCache
from preceptor_trainer import checkpoint
from preceptor_trainer.data import DatasetData
from preceptor_trainer.model import Model, load_model
from tests.contract.conftest import House
from tests.contract.refusing import dataset
from tests.models import tiny_model_folder

LORA = {"rank": 4, "alpha": 8}


def bench(house: House) -> Bench:
    folder = house.tmp / "worker"
    return Bench(client=house.admin, name="w", folder=folder, cache=ArtifactCache(house.admin, folder, 10**9))


def start(house: House, student: str | None = None, data: DataSpec | None = None, **training: Any) -> Run:
    """A run that learns from its own base, so that nobody has to serve."""
    if student is None:
        folder = tiny_model_folder(house.tmp / "student")
        student = house.admin.artifacts.push(folder, "model", "student")
    settings = {
        "steps": 4,
        "batch": 3,
        "evaluate_items": 4,
        "evaluate_every": 2,
        "checkpoint_every": 2,
        "learning_rate": 5e-3,
        "warmup_steps": 0,
        "lora": LORA,
    }
    return house.run(
        student=student,
        teachers={"self": "base"},
        overrides={"rollout": {"max_tokens": 8}},
        data=data or TaskSource(task="spell_backward"),
        training={**settings, **training},
    )


def notes(house: House, run: Run) -> list[str]:
    found = house.admin.runs.events(run.id, follow=False)
    return [str(event.data.get("message")) for event in found if event.kind == "note"]


@pytest.fixture
def say(sqlite_house: House, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`preceptor ARGUMENTS` against the house; the exit code."""

    @contextmanager
    def connect(url: str, key_file: Path | None) -> Iterator[Client]:
        yield sqlite_house.admin

    monkeypatch.setattr(exports, "connect", connect)

    def say(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["preceptor", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return say


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 9, 17, 33, 8]])).logits.log_softmax(-1)


def test_a_lora_run_from_its_submit_to_its_export(sqlite_house: House, say: Callable[..., int], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = start(sqlite_house)
    advance(run.id, bench(sqlite_house))
    run = sqlite_house.admin.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED and run.error is None
    assert run.result is not None and run.result.model is not None and run.result.kept_step == 4
    ledgers = [each.ledger.teachers["self"] for each in sqlite_house.admin.runs.metrics(run.id)]
    assert all(each.requests == 0 and each.sequences == 3 for each in ledgers)

    assert say("models", "export", run.id, str(tmp_path / "merged")) == 0
    assert say("models", "export", run.id, str(tmp_path / "adapter"), "--adapter") == 0
    assert run.checkpoint is not None
    assert say("models", "export", run.checkpoint.artifact, str(tmp_path / "again"), "--merged") == 0
    names = {each.name for each in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (run.student, 4)

    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted: Any = AutoModelForCausalLM.from_pretrained(sqlite_house.tmp / "student")
    plain = logits(adapted)
    adapted.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-5, rtol=0)
    assert (logits(merged) - plain).abs().max() > 1e-3, "it has learned something"
    mine: Model = load_model(tmp_path / "merged")
    assert torch.equal(logits(mine.module), logits(merged)), "the tokenizer and its template came along"
    other: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(other), logits(merged))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--merged", "--adapter"), "one folder holds one of them"),
        (("--adapter",), "it has no adapter"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(
    sqlite_house: House,
    say: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    model = sqlite_house.model()
    assert say("models", "export", model, str(tmp_path / "x"), *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()


def test_a_run_without_a_model_and_a_folder_that_is_full_are_refused(
    sqlite_house: House, say: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(sqlite_house)
    assert say("models", "export", run.id, str(tmp_path / "x")) == 2
    assert "has no checkpoint yet" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert say("models", "export", run.id, str(tmp_path / "full")) == 2
    assert "not an empty folder" in " ".join(capsys.readouterr().err.split())


def test_a_guard_pauses_a_run_until_somebody_resumes_it(sqlite_house: House) -> None:
    guards = {"entropy": {"threshold": 19.0, "action": "pause", "patience": 2}}
    run = start(sqlite_house, guards=guards)
    advance(run.id, bench(sqlite_house))
    paused = sqlite_house.admin.runs.get(run.id)
    assert (paused.state, paused.step) == (RunState.PAUSED, 2)
    assert paused.checkpoint is not None and paused.checkpoint.step == 2
    assert any("Guard entropy at step 2" in message for message in notes(sqlite_house, run))
    advance(run.id, bench(sqlite_house))
    assert sqlite_house.admin.runs.get(run.id).state is RunState.PAUSED, "a message that comes again finds it paused"
    sqlite_house.admin.runs.resume(run.id)
    advance(run.id, bench(sqlite_house))
    again = sqlite_house.admin.runs.get(run.id)
    assert (again.state, again.step) == (RunState.PAUSED, 3), "it lasts, so that it pauses again"


def test_a_tracker_that_is_not_installed_ends_the_run_by_name(
    sqlite_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = start(sqlite_house, trackers=["wandb"])
    advance(run.id, bench(sqlite_house))
    ended = sqlite_house.admin.runs.get(run.id)
    assert ended.state is RunState.FAILED and ended.error is not None
    assert "'wandb' needs the package wandb, which this worker does not have" in ended.error.detail
    assert "pip install wandb" in (ended.error.remedy or "")


def test_a_student_that_cannot_be_loaded_ends_the_run_with_cause_and_remedy(sqlite_house: House) -> None:
    run = start(sqlite_house, lora={**LORA, "targets": ["no_such_proj"]})
    advance(run.id, bench(sqlite_house))
    ended = sqlite_house.admin.runs.get(run.id)
    assert ended.state is RunState.FAILED and ended.error is not None
    assert ended.error.detail.startswith("Step 1: training.lora.targets: Target modules {'no_such_proj'} not found")
    assert ended.error.remedy and "Name linear layers of this student" in ended.error.remedy


def test_a_student_of_a_kind_that_cannot_be_trained_ends_the_run_with_its_reason(sqlite_house: House) -> None:
    folder = tiny_model_folder(sqlite_house.tmp / "scaled", logit_scale=2.0)
    run = start(sqlite_house, sqlite_house.admin.artifacts.push(folder, "model", "scaled"))
    advance(run.id, bench(sqlite_house))
    ended = sqlite_house.admin.runs.get(run.id)
    assert ended.state is RunState.FAILED and ended.error is not None
    assert "config.logit_scale = 2.0: its logits are scaled" in ended.error.detail
    assert "Use a model whose logits are plain" in (ended.error.remedy or "")


def test_a_row_that_does_not_fit_ends_the_run_where_it_comes_up_and_keeps_the_last_checkpoint(
    sqlite_house: House,
) -> None:
    long = "why " * 150
    rows = [{"prompt": f"spell {n}", "answer": f"{n}", "reference": f"{n}"} for n in range(19)]
    rows.append({"prompt": long, "answer": "no", "reference": "no"})
    spec = DatasetSource(artifact=dataset(sqlite_house, rows), held_out=0.3)
    data = DatasetData(spec, sqlite_house.tmp / "rows")

    def comes_up(seed: int, step: int) -> bool:
        return any(task.messages[0]["content"] == long for task in data.train(step, 3, seed))

    seed = next(seed for seed in range(99) if comes_up(seed, 3) and not comes_up(seed, 1) and not comes_up(seed, 2))
    run = start(sqlite_house, data=spec, seed=seed)
    advance(run.id, bench(sqlite_house))
    ended = sqlite_house.admin.runs.get(run.id)
    assert ended.state is RunState.FAILED and ended.error is not None
    assert ended.error.detail.startswith("Step 3: A prompt of ")
    assert "('why why why" in ended.error.detail and "whose positions end at 512" in ended.error.detail
    assert ended.error.remedy is not None and "data without such rows" in ended.error.remedy
    assert "goes on from the checkpoint after step 2" in ended.error.remedy
    assert ended.checkpoint is not None and ended.checkpoint.step == 2
    sqlite_house.admin.artifacts.pull(ended.checkpoint.artifact, sqlite_house.tmp / "kept")  # its hashes are checked


def test_a_full_disk_ends_the_run_and_a_resume_goes_on_from_the_checkpoint_before(
    sqlite_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_file(tensors: Any, path: Path) -> None:
        if "00000004" in str(path):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        written(tensors, path)

    written = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    run = start(sqlite_house)
    advance(run.id, bench(sqlite_house))
    failed = sqlite_house.admin.runs.get(run.id)
    assert failed.state is RunState.FAILED and failed.error is not None
    assert "the checkpoint at step 4 could not be written" in failed.error.detail
    assert "No space left on device" in failed.error.detail
    assert "Make room on the worker w" in (failed.error.remedy or "")
    assert "goes on from the checkpoint after step 2" in (failed.error.remedy or "")
    assert failed.checkpoint is not None and failed.checkpoint.step == 2
    monkeypatch.setattr(checkpoint, "save_file", written)
    sqlite_house.admin.runs.resume(run.id)
    advance(run.id, bench(sqlite_house))
    assert sqlite_house.admin.runs.get(run.id).state is RunState.SUCCEEDED
    told = [event.data for event in sqlite_house.admin.runs.events(run.id, follow=False) if event.kind == "resumed"]
    assert [each["largest_difference"] for each in told] == [0.0], "steps 3 and 4 came out the same"
