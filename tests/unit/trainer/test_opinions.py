"""Contexts become requests, answers become slots: each prompt once, every pair covered, absence never a zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from preceptor.errors import TeacherUnavailable
from preceptor.wire.runs import OnFailure
from preceptor.wire.score import Head as WireHead
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Support
from preceptor_trainer import recipes
from preceptor_trainer.asking import Heard, MissingScore
from preceptor_trainer.batch import Row, build_batch
from preceptor_trainer.model import Model, load_model, prompt_ids
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Context, Recipe
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.views import ContextView, Message, Prompt, Verdict
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, ToyData


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))


def rows_of(model: Model, recipe: Recipe, tasks: int = 3) -> list[Row]:
    return Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(ToyData().train(1, tasks, 0), 1)


def opsd(context: dict[str, object] | None = None, samples: int = 4) -> Recipe:
    recipe = recipes.load("opsd").override({"rollout": {"max_tokens": 6, "samples": samples}})
    return recipe if context is None else recipe.override({"contexts": {"reference": context}})


def test_a_prompt_that_rollouts_share_is_sent_once(model: Model) -> None:
    scorer = LocalScorer({"self": model})
    rows = rows_of(model, opsd())
    asked = Opinions(opsd(), model, scorer, 0, torch.float32).ask(rows, 1)
    ((role, request),) = scorer.asked
    assert role == "self" and request.support is Support.FULL
    assert len(request.contexts) == 3 and len(request.completions) == 12
    assert asked.contexts == asked.scored == asked.stamped == 12


def test_every_score_is_of_the_student_s_exact_tokens_after_the_privileged_prompt(model: Model) -> None:
    """Against one plain forward per rollout, with the prompt written out by hand."""
    rows = rows_of(model, opsd())
    asked = Opinions(opsd(), model, LocalScorer({"self": model}), 0, torch.float32).ask(rows, 1)
    batch = build_batch(rows, asked.slots, 1, torch.float32)
    (slot,) = batch.slots["reference"]
    for index, row in enumerate(rows):
        question, reference = row.task.messages[-1]["content"], row.task.reference
        text = (
            f"{question}\n\nHere is a reference solution to this problem:\n{reference}\n\n"
            "After understanding the reference solution, now solve the problem in your own words."
        )
        prompt = prompt_ids(model, [Message(role="user", content=text)])
        with torch.no_grad():
            logits = model.module(torch.tensor([[*prompt, *row.completion_ids]])).logits[0]
        expected_TV = logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected_T = expected_TV.gather(-1, torch.tensor(row.completion_ids)[:, None]).squeeze(-1)
        tokens = slice(batch.offsets[index], batch.offsets[index + 1])
        torch.testing.assert_close(slot.logprob_T[tokens], expected_T, atol=1e-4, rtol=1e-4)
        assert slot.hidden_TD is not None and slot.head is not None
        mine_TV = (slot.hidden_TD[tokens] @ slot.head.weight_VD.T).log_softmax(-1)
        torch.testing.assert_close(mine_TV, expected_TV, atol=1e-4, rtol=1e-4)


def test_a_rollout_without_a_prompt_has_no_opinion_rather_than_a_zero(model: Model) -> None:
    recipe = opsd({"kind": "peer_success"}, samples=2)
    rows = rows_of(model, recipe, tasks=2)
    won = [
        replace(row, verdict=Verdict(reward=float(index == 1), correct=index == 1)) for index, row in enumerate(rows)
    ]
    scorer = LocalScorer({"self": model})
    asked = Opinions(recipe, model, scorer, 0, torch.float32).ask(won, 1)
    batch = build_batch(won, asked.slots, 1, torch.float32)
    (slot,) = batch.slots["reference"]
    present = [bool(slot.present_T[begin]) for begin in batch.offsets[:-1]]
    assert present == [True, False, False, False], "only the first rollout has a sibling that succeeded"
    assert asked.contexts == asked.scored == 1


class _Two(Context, kind="test_two_prompts"):
    """Two prompts with weights; the second asks another teacher."""

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        first = Prompt(messages=view.task.messages, weight=0.25)
        return (first, Prompt(messages=(Message(role="user", content="b?"),), teacher="other", weight=0.75))


def test_several_prompts_become_several_slots_with_their_weights(model: Model) -> None:
    other = load_model(tiny_model_folder(model.folder.parent / "other", seed=3))
    recipe = opsd({"kind": "test_two_prompts"}, samples=1).override(
        {"target": {"kind": "each", "contexts": ["reference"]}}
    )
    rows = rows_of(model, recipe)
    scorer = LocalScorer({"self": model, "other": other})
    with pytest.raises(MissingScore, match=r"teacher 'other' \(role 'other'\) scored with head"):
        scorer.head = lambda role, hash=None, **settings: _head(scorer, role)
        Opinions(recipe, model, scorer, 0, torch.float32).ask(rows, 1)
    asked = Opinions(recipe, model, LocalScorer({"self": model, "other": other}), 0, torch.float32).ask(rows, 1)
    first, second = asked.slots["reference"]
    assert (first.role, second.role) == ("self", "other")
    assert set(first.weight_T.tolist()) == {0.25} and set(second.weight_T.tolist()) == {0.75}
    assert not torch.equal(first.logprob_T, second.logprob_T)
    assert asked.scored == 2 * len(rows)


def _head(scorer: LocalScorer, role: str) -> WireHead:
    """The head of weights that moved on after the score."""
    head = LocalScorer.head(scorer, role)
    return replace(head, hash="sha256:" + "f" * 64) if role == "other" else head


def test_sampled_support_asks_for_no_hidden_states(model: Model) -> None:
    recipe = recipes.load("opd").override({"rollout": {"max_tokens": 6}})
    scorer = LocalScorer({"teacher": model})
    rows = rows_of(model, recipe)
    asked = Opinions(recipe, model, scorer, 0, torch.float32).ask(rows, 1)
    assert scorer.asked[0][1].support is Support.SAMPLED
    (slot,) = asked.slots["teacher"]
    assert slot.hidden_TD is None and slot.head is None
    written = np.concatenate([row.logprobs or () for row in rows])
    assert slot.logprob_T.numpy() == pytest.approx(written, abs=1e-4), "same weights, same prompt, same numbers"


class _Away(LocalScorer):
    """Some roles' teachers give no answer, or their fallback does; others go before they are asked for their heads.
    What was to happen then is remembered."""

    def __init__(
        self, models: dict[str, Model], away: Sequence[str], fallback: Model | None = None, gone: Sequence[str] = ()
    ) -> None:
        super().__init__(models)
        self._away, self._fallback, self._gone = set(away), fallback, set(gone)
        self.policies: list[tuple[str, OnFailure]] = []
        self.headless = list[dict[str, object]]()

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        self.policies.append((role, on_failure))
        if role in self._away:
            raise TeacherUnavailable(f"Teacher '{role}' gave no answer.", teacher=role)
        return super().score(role, request, on_failure=on_failure)

    def head(self, role: str, hash: str | None = None, **settings: Any) -> WireHead:
        if role in self._gone:
            self.headless.append({"role": role, **settings})
            raise TeacherUnavailable(f"Teacher '{role}' gave no head.", teacher=role)
        return super().head(role, hash)


def two_opinions(model: Model, on_failure: str = "drop", **more: object) -> tuple[Recipe, list[Row]]:
    """A reference that waits, and one of another teacher that does `on_failure`."""
    recipe = opsd(samples=2).override(
        {
            "contexts": {"second": {"kind": "reference", "teacher": "other", "on_failure": on_failure}},
            "target": {"kind": "each", "contexts": ["reference", "second"]},
            **more,
        }
    )
    return recipe, rows_of(model, recipe)


def test_pairs_that_nobody_answers_for_are_dropped_and_counted_not_taken_for_zero(model: Model) -> None:
    recipe, rows = two_opinions(model)
    scorer = _Away({"self": model, "other": model}, away=["other"])
    asked = Opinions(recipe, model, scorer, 0, torch.float32).ask(rows, 1)
    assert scorer.policies == [("self", "wait"), ("other", "drop")]
    assert (asked.contexts, asked.dropped, asked.scored, asked.stamped) == (12, 6, 6, 6)
    (first,), (second,) = asked.slots["reference"], asked.slots["second"]
    assert bool(first.present_T.all()) and not bool(second.present_T.any()) and not second.stamps


def test_scores_whose_head_nobody_gives_are_dropped_too(model: Model) -> None:
    recipe, rows = two_opinions(model)
    scorer = _Away({"self": model, "other": model}, away=[], gone=["other"])
    asked = Opinions(recipe, model, scorer, 0, torch.float32).ask(rows, 1)
    assert scorer.headless == [{"role": "other", "on_failure": "drop", "completions": 6}]
    assert (asked.contexts, asked.dropped, asked.scored, asked.stamped) == (12, 6, 6, 6)
    assert not bool(asked.slots["second"][0].present_T.any())
    recipe, rows = two_opinions(model, "wait")
    with pytest.raises(TeacherUnavailable, match="Teacher 'other' gave no head"):
        Opinions(recipe, model, scorer, 0, torch.float32).ask(rows, 1)


@pytest.mark.parametrize("on_failure", ["wait", "fallback"])
def test_only_a_context_that_says_so_is_done_without(model: Model, on_failure: str) -> None:
    recipe, rows = two_opinions(model, on_failure)
    scorer = _Away({"self": model, "other": model}, away=["other"])
    with pytest.raises(TeacherUnavailable, match="Teacher 'other' gave no answer"):
        Opinions(recipe, model, scorer, 0, torch.float32).ask(rows, 1)


def test_what_is_missing_without_having_been_dropped_is_an_error(model: Model) -> None:
    opinions = Opinions(opsd(), model, LocalScorer({"self": model}), 0, torch.float32)
    heard = opinions.hear(rows_of(model, opsd()), 1)
    with pytest.raises(MissingScore, match=r"contexts.reference: nobody scored rollout 0 after its prompt 0"):
        opinions.gather([replace(heard, answers={})])


def test_a_fallback_s_answers_stand_beside_the_teacher_s_with_their_own_head(model: Model) -> None:
    """Half of a batch was answered by another model of another width: every token keeps its own distribution."""
    wide = load_model(tiny_model_folder(model.folder.parent / "wide", seed=5, hidden=64))
    recipe = opsd(samples=1)
    rows = rows_of(model, recipe, tasks=4)
    parts: list[Heard] = []
    for index, who in enumerate((model, wide)):
        scorer = LocalScorer({"self": who})
        scorer.hash = "sha256:" + f"{index}" * 64
        parts.append(Opinions(recipe, model, scorer, 0, torch.float32).hear(rows[2 * index : 2 * index + 2], 1))
    opinions = Opinions(recipe, model, LocalScorer({"self": model}), 0, torch.float32)
    together = opinions.gather(parts)
    (slot,) = together.slots["reference"]
    assert slot.hidden_TD is not None and slot.head is not None
    logits_TV = slot.hidden_TD @ slot.head.weight_VD.T
    apart: list[torch.Tensor] = []
    for part in parts:
        (alone,) = opinions.gather([part]).slots["reference"]
        assert alone.hidden_TD is not None and alone.head is not None
        apart.append(alone.hidden_TD @ alone.head.weight_VD.T)
    torch.testing.assert_close(logits_TV, torch.cat(apart))
    written_T = logits_TV.log_softmax(-1).gather(-1, build_batch(rows, {}, 1, torch.float32).token_T[:, None])
    torch.testing.assert_close(written_T.squeeze(-1), slot.logprob_T, atol=1e-4, rtol=1e-4)
