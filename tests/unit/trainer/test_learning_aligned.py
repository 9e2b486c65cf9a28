"""The shipped model learns to spell backward from a teacher whose ids mean other bytes than its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from preceptor.wire.data import TaskSource
from preceptor_trainer import recipes
from preceptor_trainer.data import open_data
from preceptor_trainer.loop import train
from preceptor_trainer.model import load_model
from tests.unit.trainer.doubles import LocalScorer, Remembering, toy_run

TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"


def shuffled(folder: Path) -> Path:
    """The shipped model with its 256 byte tokens under other ids: the same distribution over texts."""
    shutil.copytree(TINY, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = Random(0).sample(range(256), 256)
    tokenizer["model"]["vocab"] = {token: ids[index] for token, index in tokenizer["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]  # the head is tied to it
    moved = rows.clone()
    moved[torch.tensor(ids)] = rows[:256]
    save_file({**weights, "model.embed_tokens.weight": moved}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.slow
def test_the_right_reference_teaches_across_tokenizers(tmp_path: Path) -> None:
    context = {"kind": "reference", "teacher": "teacher"}
    recipe = recipes.load("opd").override(
        {"rollout": {"max_tokens": 24, "samples": 2}, "contexts": {"teacher": context}}
    )
    settings = {"steps": 24, "batch": 32, "learning_rate": 1.5e-4, "evaluate_items": 200}
    run = toy_run(recipe, **settings, evaluate_every=24, checkpoint_every=24)
    run = run.model_copy(update={"alignment": "bytes"})
    teacher, reporter, work = load_model(shuffled(tmp_path / "teacher")), Remembering(), tmp_path / "work"
    work.mkdir()
    scorer = LocalScorer({"teacher": teacher})
    ended = train(run, TINY, open_data(TaskSource(task="spell_backward")), scorer, reporter, work)
    assert ended.result is not None
    assert ended.result.gain >= 0.1 and ended.result.ci95[0] > 0
    tokens = [report.ledger.tokens for report in reporter.steps]
    assert sum(each["masked"] for each in tokens) < 0.05 * sum(each["completion"] for each in tokens)
