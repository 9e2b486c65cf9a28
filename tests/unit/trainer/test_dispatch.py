"""A routed run: each rollout is scored by its own teacher alone, all teachers at the same time, whoever is not routed
changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch

from preceptor.errors import BadScores, TeacherUnavailable
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.runs import OnFailure
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card, Stamp, Support
from preceptor_trainer import recipes
from preceptor_trainer.asking import Asked
from preceptor_trainer.batch import Row, build_batch
from preceptor_trainer.loop import train
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.router import Unrouted
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.views import Task
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run, weights_of

BY_DOMAIN = {"kind": "column", "domains": ["maths", "law", "code"], "silent": ["chat"]}


class Local(LocalScorer):
    """Teachers that have a head each."""

    def head(self, role: str, hash: str | None = None, **settings: Any) -> Head:
        return replace(super().head(role), hash=f"sha256:{crc32(role.encode()):064x}")

    def _stamp(self, role: str, request: ScoreRequest) -> Stamp:
        hash = f"sha256:{crc32(role.encode()):064x}"
        return super()._stamp(role, request).model_copy(update={"head_hash": hash})


class Domains(ToyData):
    """Toy data whose questions are of domains in turn."""

    columns = ToyData.columns | {"domain"}

    def __init__(self, *domains: str | None) -> None:
        self._domains = domains

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        found = super().train(step, batch, seed)
        return [
            replace(task, columns={"domain": self._domains[at % len(self._domains)]}) for at, task in enumerate(found)
        ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A student, and four teachers with heads of their own."""
    roles = ("student", "maths", "law", "code", "other")
    return {
        role: load_model(tiny_model_folder(tmp_path_factory.mktemp(role), seed=seed)) for seed, role in enumerate(roles)
    }


def routed(name: str, router: dict[str, object] = BY_DOMAIN) -> Recipe:
    return recipes.load(name).override({"rollout": {"max_tokens": 6}, "contexts.teacher.router": router})


def rows_of(recipe: Recipe, model: Model, *domains: str | None) -> list[Row]:
    return Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(Domains(*domains).train(1, 6, 0), 1)


def heard(recipe: Recipe, models: dict[str, Model], rows: Sequence[Row], scorer: Local) -> Asked:
    return Opinions(recipe, models["student"], scorer, 0, torch.float32).ask(rows, 1)


@pytest.mark.parametrize("name", ["opd", "gkd"])
def test_a_rollout_has_the_opinion_of_its_own_teacher_and_of_nobody_else(name: str, models: dict[str, Model]) -> None:
    """Against each teacher asked alone about its rollouts: whole distributions of several heads, or sampled tokens."""
    recipe = routed(name)
    rows = rows_of(recipe, models["student"], "maths", "law", "chat", None)
    scorer = Local(models)
    asked = heard(recipe, models, rows, scorer)
    assert sorted(role for role, _ in scorer.asked) == ["law", "maths"]
    silent = [row for row in rows if row.task.columns["domain"] in ("chat", None)]
    assert asked.unrouted == len(silent) > 0 and asked.contexts == asked.scored == len(rows) - len(silent)
    (slot,) = asked.slots["teacher"]
    batch = build_batch(rows, asked.slots, 1, torch.float32)
    for role in ("maths", "law"):
        alone = recipes.load(name).override({"rollout": {"max_tokens": 6}, "contexts.teacher.teacher": role})
        (theirs,) = heard(alone, models, rows, Local(models)).slots["teacher"]
        for at, row in enumerate(rows):
            tokens = slice(batch.offsets[at], batch.offsets[at + 1])
            if row.task.columns["domain"] != role:
                continue
            torch.testing.assert_close(slot.logprob_T[tokens], theirs.logprob_T[tokens])
            assert bool((slot.present_T[tokens] == 1).all()) and slot.stamps[at].teacher == role
            if slot.hidden_TD is not None and slot.head is not None and theirs.hidden_TD is not None and theirs.head:
                ours_TV = slot.hidden_TD[tokens] @ slot.head.weight_VD.T
                torch.testing.assert_close(ours_TV, theirs.hidden_TD[tokens] @ theirs.head.weight_VD.T)
    for at, row in enumerate(rows):
        if row in silent:
            assert not bool(slot.present_T[batch.offsets[at] : batch.offsets[at + 1]].any())
    assert (slot.hidden_TD is not None) == (recipe.support is not Support.SAMPLED)


@pytest.mark.parametrize("name", ["opd", "gkd"])
def test_another_teacher_that_is_not_routed_changes_no_bit_and_is_never_called(
    name: str, models: dict[str, Model], tmp_path: Path
) -> None:
    recipe, weights = routed(name), list[torch.Tensor]()
    for code in ("code", "other"):
        folder = tmp_path / code
        folder.mkdir()
        scorer, reporter = Watched({**models, "code": models[code]}), Remembering()
        run = toy_run(recipe, steps=2, warmup_steps=0, learning_rate=1e-2)
        ended = train(run, models["student"].folder, Domains("maths", "law"), scorer, reporter, folder)
        assert ended.model is not None and "code" not in scorer.called
        weights.append(weights_of(load_model(ended.model)))
    assert torch.equal(*weights) and not torch.equal(weights[0], weights_of(models["student"]))


class Leaving(Local):
    """Nobody fills the role `law` from step 2 on."""

    def begin(self, step: int) -> Collection[str]:
        return {"law"} if step >= 2 else set()


def test_a_role_that_nobody_fills_has_no_opinion_and_is_counted(models: dict[str, Model]) -> None:
    recipe, scorer = routed("opd"), Leaving(models)
    rows = rows_of(recipe, models["student"], "maths", "law")
    opinions = Opinions(recipe, models["student"], scorer, 0, torch.float32)
    assert opinions.ask(rows, 1).unrouted == 0
    scorer.asked.clear()
    asked = opinions.ask(rows, 2)
    law = [row for row in rows if row.task.columns["domain"] == "law"]
    assert asked.unrouted == len(law) > 0 and asked.scored == len(rows) - len(law)
    assert [role for role, _ in scorer.asked] == ["maths"]


def test_a_domain_without_a_teacher_ends_the_run_where_it_comes_up(models: dict[str, Model]) -> None:
    recipe = routed("opd")
    rows, scorer = rows_of(recipe, models["student"], "maths", "cooking"), Local(models)
    with pytest.raises(Unrouted, match=r"'domain' says 'cooking', and .* no teacher for it; it has maths, law, code"):
        heard(recipe, models, rows, scorer)
    assert not scorer.asked


def test_a_classifier_is_asked_once_a_question_and_what_cannot_be_read_is_counted(models: dict[str, Model]) -> None:
    recipe = routed("opd", {"kind": "classifier", "domains": ["maths", "law"], "classifier": "judge"})
    rows = rows_of(recipe, models["student"], None)
    questions = list(dict.fromkeys(row.task.id for row in rows))
    asked = list[str]()

    def judge(role: str, request: ChatRequest) -> Reply:
        (at,) = [n for n, each in enumerate(questions) if f"{each}?" in request.messages[0].content]
        asked.append(f"{role}/{at}")
        said = ["<domain>maths</domain>", "It is <domain>Law</domain>.", "maths"][at % 3]
        return Reply(text=said, finished=at != 3)

    scorer = Local(models, judge)
    part = Opinions(recipe, models["student"], scorer, 0, torch.float32).hear(rows, 1)
    assert sorted(asked) == [f"judge/{at}" for at in range(len(questions))]
    by_role = {role: {wish.row for wish in part.wishes if wish.role == role} for role in ("maths", "law")}
    of = [questions.index(row.task.id) for row in rows]
    assert by_role["maths"] == {at for at, question in enumerate(of) if question == 0}
    assert by_role["law"] == {at for at, question in enumerate(of) if question % 3 == 1}
    unread = sum(question in (2, 3, 5) for question in of)
    assert part.unrouted == unread and part.texts["judge"].unreadable == unread
    assert part.texts["judge"].texts == len(questions)


class Watched(Local):
    """Tells every call of any kind, by role."""

    def __init__(self, models: dict[str, Model]) -> None:
        super().__init__(models)
        self.called = set[str]()

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        self.called.add(role)
        return super().score(role, request, on_failure=on_failure)

    def card(self, role: str) -> Card:
        self.called.add(role)
        return super().card(role)


class Meeting(Local):
    """Answers nobody before all are there, in an order of its own."""

    def __init__(self, models: dict[str, Model], parties: int, order: Sequence[str]) -> None:
        super().__init__(models)
        self._all = threading.Barrier(parties, timeout=20)
        self._order = order
        self._turn = threading.Condition()
        self._done = 0

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        self._all.wait()
        with self._turn:
            assert self._turn.wait_for(lambda: self._order[self._done] == role, timeout=20)
            said = super().score(role, request, on_failure=on_failure)
            self._done += 1
            self._turn.notify_all()
        return said


def test_all_teachers_are_asked_at_once_and_who_is_first_changes_nothing(models: dict[str, Model]) -> None:
    recipe = routed("gkd")
    rows = rows_of(recipe, models["student"], "maths", "law", "code")
    orders = (["maths", "law", "code"], ["code", "law", "maths"])
    one, other = (heard(recipe, models, rows, Meeting(models, 3, order)) for order in orders)
    ((mine,), (theirs,)) = one.slots["teacher"], other.slots["teacher"]
    assert torch.equal(mine.logprob_T, theirs.logprob_T)
    assert mine.hidden_TD is not None and theirs.hidden_TD is not None and torch.equal(mine.hidden_TD, theirs.hidden_TD)


class Failing(Local):
    """One teacher is away, another talks nonsense."""

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        if role == "law":
            raise TeacherUnavailable("nobody answers", teacher=role)
        if role == "code":
            raise BadScores("numbers that cannot be", teacher=role)
        return super().score(role, request, on_failure=on_failure)


def test_a_teacher_that_is_away_is_done_without_where_the_context_says_so(models: dict[str, Model]) -> None:
    recipe = routed("opd").override({"contexts.teacher.on_failure": "drop"})
    rows = rows_of(recipe, models["student"], "maths", "law")
    asked = heard(recipe, models, rows, Failing(models))
    assert 0 < asked.dropped < asked.contexts == len(rows) and asked.scored + asked.dropped == len(rows)
    with pytest.raises(BadScores, match="numbers that cannot be"):
        heard(recipe, models, rows_of(recipe, models["student"], "maths", "code"), Failing(models))


class Sparse(Local):
    """One of its teachers knows no whole distributions."""

    def card(self, role: str) -> Card:
        card = super().card(role)
        return card.model_copy(update={"supports": (Support.SAMPLED, Support.TOPK)}) if role == "law" else card


def test_teachers_that_answer_with_different_supports_are_refused_with_what_to_set(models: dict[str, Model]) -> None:
    recipe = routed("gkd")
    rows = rows_of(recipe, models["student"], "maths", "law")
    with pytest.raises(ValueError, match=r'some with a few ids; set \{"sparse": \{"always": true\}\}'):
        heard(recipe, models, rows, Sparse(models))
    alike = recipe.override({"sparse": {"always": True, "k": 4}})
    assert heard(alike, models, rows, Sparse(models)).scored == len(rows)
