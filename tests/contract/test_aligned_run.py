"""A run aligned by bytes over the wire: the pool, a teacher's application, two models with different tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_trainer import recipes
from preceptor_trainer.loop import train
from tests.contract.teaching import KEY, URL, Teaching, teaching
from tests.models import pairs_tokenizer, tiny_model_folder
from tests.unit.trainer.doubles import Remembering, ToyData, toy_run


@pytest.fixture
def taught(tmp_path: Path) -> Iterator[Teaching]:
    folder = tiny_model_folder(tmp_path / "teacher", vocab=512, seed=7)
    pairs_tokenizer().save_pretrained(folder)
    with teaching(HfBackend(folder)) as taught:
        yield taught


def test_a_run_over_the_wire(taught: Teaching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATH_KEY", KEY)
    recipe = recipes.load("opd").override({"rollout": {"max_tokens": 8, "samples": 2}})
    run = toy_run(recipe, steps=2, batch=12).model_copy(update={"alignment": "bytes"})
    student, work, reporter = tiny_model_folder(tmp_path / "student"), tmp_path / "work", Remembering()
    work.mkdir()
    card = taught.client.card()
    endpoint = TeacherEndpoint(name="math", url=URL, key_env="MATH_KEY", card=card)
    with TeacherPool({"teacher": endpoint}, tmp_path / "heads", transport=taught.bridge) as pool:
        ended = train(run, student, ToyData(), pool, reporter, work)
    assert ended.result is not None and ended.result.steps == 2
    for report in reporter.steps:
        asked, tokens = report.ledger.teachers["teacher"], report.ledger.tokens
        assert asked.sequences == report.ledger.rollouts == report.ledger.stamped_sequences
        assert tokens["masked"] < tokens["completion"], "something was heard"
        assert 0 < asked.tokens < tokens["completion"], "pairs of letters are fewer tokens"
        assert report.metrics["grad_norm"] > 0
