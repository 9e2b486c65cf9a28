"""A run that is routed and aligned by bytes: each rollout is read in the tokens of whoever is asked about it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.asking import Asked
from preceptor_trainer.batch import Row, build_batch, share_spans
from preceptor_trainer.loop import train
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.writer import Writer
from tests.models import pairs_tokenizer, tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run, weights_of

RULES = {"kind": "rules", "rules": [{"teacher": "near", "like": "*[ab]?"}], "otherwise": "far"}
ROUTED = recipes.load("opd").override({"rollout": {"max_tokens": 8}, "contexts.teacher.router": RULES})


def asking(role: str) -> Recipe:
    """The same of one teacher."""
    return recipes.load("opd").override({"rollout": {"max_tokens": 8}, "contexts.teacher.teacher": role})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A student, a teacher that reads its tokens, and one that reads pairs of letters."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("student", "near", "far")}
    for seed, (name, folder) in enumerate(folders.items()):
        tiny_model_folder(folder, vocab=512 if name == "far" else 64, seed=seed)
    pairs_tokenizer().save_pretrained(folders["far"])
    return {name: load_model(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def rows(models: dict[str, Model]) -> list[Row]:
    student = models["student"]
    return Writer(ROUTED.rollout, student, LocalSampler(student), seed=0).write(ToyData().train(1, 24, 0), 1)


def heard(recipe: Recipe, models: dict[str, Model], rows: list[Row]) -> Asked:
    return Opinions(recipe, models["student"], LocalScorer(models), 0, torch.float32, "bytes").ask(rows, 1)


def near(row: Row) -> bool:
    return row.task.id[-1] in "ab"


def test_each_rollout_is_read_as_its_own_teacher_alone_would(models: dict[str, Model], rows: list[Row]) -> None:
    asked = heard(ROUTED, models, rows)
    alone = {role: heard(asking(role), models, rows) for role in ("near", "far")}
    own_T = -torch.rand(sum(len(row.completion_ids) for row in rows), generator=torch.Generator().manual_seed(0))
    batches = [build_batch(rows, each.slots, 1, torch.float32) for each in (asked, *alone.values())]
    shared = [share_spans(each, own_T, fill=False) for each in batches]
    batch, (mine, *theirs) = shared[0], [each.slots["teacher"][0] for each in shared]
    assert {near(row) for row in rows} == {True, False}
    for at, row in enumerate(rows):
        tokens = slice(batch.offsets[at], batch.offsets[at + 1])
        other = theirs[0] if near(row) else theirs[1]
        torch.testing.assert_close(mine.logprob_T[tokens], other.logprob_T[tokens])
        assert torch.equal(mine.present_T[tokens], other.present_T[tokens])
        assert mine.stamps[at].teacher == ("near" if near(row) else "far")
    (read,) = alone["far"].slots["teacher"]
    of_far = torch.cat([torch.full((len(row.completion_ids),), not near(row)) for row in rows])
    assert alone["near"].masked is None
    assert asked.masked == int((of_far & (read.present_T == 0)).sum()) > 0, "only where other tokens are read"


class Refilled(LocalScorer):
    """From step 2 on the two have changed places."""

    def begin(self, step: int) -> Collection[str]:
        if step == 2:
            self._models |= {"near": self._models["far"], "far": self._models["near"]}
        return ()


def test_who_fills_a_role_is_read_in_tokens_of_its_own(models: dict[str, Model], rows: list[Row]) -> None:
    scorer = Refilled(models)
    opinions = Opinions(ROUTED, models["student"], scorer, 0, torch.float32, "bytes")
    opinions.ask(rows, 1)
    opinions.ask(rows, 2)
    own = sum(len(row.completion_ids) for row in rows if near(row))
    first, second = (sum(map(len, request.completions)) for role, request in scorer.asked if role == "near")
    assert first == own > second > 0, "pairs of letters are fewer tokens"


def test_it_learns(models: dict[str, Model], tmp_path: Path) -> None:
    run = toy_run(ROUTED, steps=2, warmup_steps=0, learning_rate=1e-2).model_copy(update={"alignment": "bytes"})
    reporter = Remembering()
    ended = train(run, models["student"].folder, ToyData(), LocalScorer(models), reporter, tmp_path)
    assert ended.model is not None
    assert not torch.equal(weights_of(load_model(ended.model)), weights_of(models["student"]))
    for step in reporter.steps:
        assert step.ledger.unrouted == 0 and step.ledger.scored_sequences == step.ledger.rollouts
