"""Teachers that name some tokens only: what they are asked, what becomes of it, what is learned from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from preceptor.wire.runs import OnFailure, Training
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card, Support
from preceptor_trainer import recipes
from preceptor_trainer.asking import Asked, MissingScore
from preceptor_trainer.batch import Row, Slot, build_batch
from preceptor_trainer.laying import slots_of
from preceptor_trainer.learner import Learner
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.support import NoSupport
from preceptor_trainer.views import FLOOR
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, ToyData
from tests.unit.trainer.test_learner import gradient


class Narrow(LocalScorer):
    """A teacher that offers these supports, of so many ids."""

    def __init__(self, models: dict[str, Model], *supports: Support, max_k: int = 64) -> None:
        super().__init__(models)
        self._supports, self._max_k = supports, max_k

    def card(self, role: str) -> Card:
        card = super().card(role)
        limits = card.limits.model_copy(update={"max_k": self._max_k})
        return card.model_copy(update={"supports": self._supports, "limits": limits})


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("teacher"), seed=3))


def opsd(**sparse: object) -> Recipe:
    return recipes.load("opsd").override({"rollout": {"max_tokens": 8, "samples": 2}, "sparse": sparse})


def rows_of(student: Model, recipe: Recipe) -> list[Row]:
    return Writer(recipe.rollout, student, LocalSampler(student), seed=0).write(ToyData().train(1, 3, 0), 1)


def asked(student: Model, recipe: Recipe, scorer: LocalScorer, rows: list[Row]) -> Asked:
    return Opinions(recipe, student, scorer, 0, torch.float32).ask(rows, 1)


def test_a_teacher_without_hidden_states_is_asked_for_its_likeliest_tokens(student: Model, teacher: Model) -> None:
    recipe = opsd()
    rows, scorer = rows_of(student, recipe), Narrow({"self": teacher}, Support.SAMPLED, Support.TOPK, max_k=7)
    (slot,) = asked(student, recipe, scorer, rows).slots["reference"]
    ((_, request),) = scorer.asked
    assert (request.support, request.k) == (Support.TOPK, 7)
    assert slot.hidden_TD is None and slot.head is None
    assert slot.ids_TK is not None and slot.logprobs_TK is not None and slot.tail_T is not None
    assert slot.ids_TK.shape == (len(slot.logprob_T), 7)
    whole_T = slot.logprobs_TK.exp().sum(-1) + slot.tail_T.exp()
    torch.testing.assert_close(whole_T, torch.ones_like(whole_T), atol=1e-5, rtol=0)


def test_the_student_names_the_tokens_where_the_recipe_says_so(student: Model, teacher: Model) -> None:
    recipe = opsd(always=True, by="student", k=5)
    rows, scorer = rows_of(student, recipe), LocalScorer({"self": teacher})
    (slot,) = asked(student, recipe, scorer, rows).slots["reference"]
    ((_, request),) = scorer.asked
    assert request.support is Support.IDS and request.candidate_ids is not None
    assert slot.ids_TK is not None
    np.testing.assert_array_equal(slot.ids_TK.numpy(), request.candidate_ids)
    row = rows[0]
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    with torch.no_grad():
        logits_LV = student.module(input_ids=ids).logits[0]
    first = len(row.prompt_ids) - 1
    likeliest = logits_LV[first : first + len(row.completion_ids)].topk(5).indices
    np.testing.assert_array_equal(request.candidate_ids[: len(row.completion_ids)], likeliest.numpy())


def test_as_many_ids_as_there_are_tokens_give_the_full_gradient(student: Model, teacher: Model) -> None:
    rows, vocab = rows_of(student, opsd()), student.card.vocab_size
    found = []
    for recipe, scorer in (
        (opsd(), LocalScorer({"self": teacher})),
        (opsd(k=vocab), Narrow({"self": teacher}, Support.SAMPLED, Support.TOPK, max_k=vocab)),
        (opsd(k=vocab), Narrow({"self": teacher}, Support.SAMPLED, Support.IDS, max_k=vocab)),
    ):
        slots = asked(student, recipe, scorer, rows).slots
        found.append(gradient(recipe, student, build_batch(rows, slots, 1, torch.float32)))
    for loss, grad in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4)
        torch.testing.assert_close(grad, found[0][1], atol=1e-6, rtol=1e-4)


def test_a_student_learns_the_jsd_from_twenty_ids(tmp_path: Path, teacher: Model) -> None:
    recipe = opsd()
    student = load_model(tiny_model_folder(tmp_path))
    scorer = Narrow({"self": teacher}, Support.SAMPLED, Support.TOPK, max_k=20)
    rows = rows_of(student, recipe)
    batch = build_batch(rows, asked(student, recipe, scorer, rows).slots, 1, torch.float32)
    learner = Learner(recipe, student, Training(warmup_steps=0, learning_rate=1e-3))
    metrics = [learner.learn(batch) for _ in range(8)]
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    assert 0 < metrics[0]["reference/tail"] < 1 and 0 < metrics[0]["reference/student_tail"] < 1


def test_what_the_student_has_no_output_for_is_in_the_tail(student: Model, teacher: Model) -> None:
    recipe = opsd(always=True, k=6)
    rows, scorer = rows_of(student, recipe), LocalScorer({"self": teacher})
    opinions = Opinions(recipe, student, scorer, 0, torch.float32)
    heard = opinions.hear(rows, 1)

    def laid(vocab_size: int) -> Slot:
        (slot,) = slots_of(
            "reference", "self", heard.wishes, heard.answers, rows, torch.float64, vocab_size, Support.TOPK
        )
        return slot

    whole = laid(student.card.vocab_size)
    assert whole.ids_TK is not None
    cut = int(whole.ids_TK.float().median())
    slot = laid(cut)
    assert slot.ids_TK is not None and slot.logprobs_TK is not None and slot.tail_T is not None
    assert whole.logprobs_TK is not None and whole.tail_T is not None
    beyond_TK = whole.ids_TK >= cut
    assert 0 < int(beyond_TK.sum()) < beyond_TK.numel()
    assert (slot.ids_TK[beyond_TK] == -1).all() and (slot.logprobs_TK[beyond_TK] == FLOOR).all()
    moved_T = torch.where(beyond_TK, whole.logprobs_TK.exp(), 0.0).sum(-1)
    torch.testing.assert_close(slot.tail_T.exp(), whole.tail_T.exp() + moved_T, atol=1e-6, rtol=0)


def test_a_teacher_that_can_say_too_little_is_refused_by_name(student: Model, teacher: Model) -> None:
    recipe = opsd()
    with pytest.raises(NoSupport, match="needs the support full, topk or ids, and teacher self offers sampled"):
        asked(student, recipe, Narrow({"self": teacher}, Support.SAMPLED), rows_of(student, recipe))


class Forgetful(Narrow):
    """Promises the likeliest tokens and sends the written one's number."""

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        scores = super().score(role, request)
        kept = {name: getattr(scores, name) for name in ("offsets", "logprob_T", "stamp")}
        return Scores(**kept)


def test_a_promised_support_that_does_not_come_is_an_error(student: Model, teacher: Model) -> None:
    recipe = opsd()
    scorer = Forgetful({"self": teacher}, Support.SAMPLED, Support.TOPK)
    with pytest.raises(MissingScore, match=r"\(role 'self'\) was asked for the support topk and did not send it"):
        asked(student, recipe, scorer, rows_of(student, recipe))
