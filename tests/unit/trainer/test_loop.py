"""A run, top to bottom, with real models, teachers in the process and a reporter that remembers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

from preceptor.errors import BadScores, TeacherUnavailable
from preceptor.wire.runs import OnFailure
from preceptor.wire.score import ScoreRequest, Scores
from preceptor_trainer import loop, pipeline, recipes, writer
from preceptor_trainer.asking import MissingScore
from preceptor_trainer.checkpoint import CheckpointError, load_state
from preceptor_trainer.flow import Part, Taken, Times
from preceptor_trainer.loop import Ended, train
from preceptor_trainer.model import load_model
from preceptor_trainer.parts.weights_aged import Freshness
from preceptor_trainer.pipeline import Pipeline, Stage
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.reporting import Signal
from preceptor_trainer.views import Task
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run, weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def recipe(name: str = "opsd", **rollout: int) -> Recipe:
    return recipes.load(name).override({"rollout": {"max_tokens": 8, **rollout}})


def go(
    folder: Path,
    work: Path,
    which: Recipe,
    signal: Callable[[int], Signal] = lambda step: Signal.GO,
    resume: Path | None = None,
    **training: object,
) -> tuple[Ended, Remembering, LocalScorer]:
    work.mkdir(exist_ok=True)
    reporter = Remembering(signal)
    scorer = LocalScorer({role: load_model(folder) for role in which.roles})
    run = toy_run(which, **training)
    return train(run, folder, ToyData(), scorer, reporter, work, resume), reporter, scorer


@pytest.mark.parametrize("name", ["opd", "opsd", "sft"])
def test_a_run_accounts_for_every_score(folder: Path, tmp_path: Path, name: str) -> None:
    which = recipe(name)
    ended, reporter, scorer = go(folder, tmp_path, which)
    assert ended.signal is Signal.GO and ended.result is not None and ended.result.steps == 4
    assert [report.step for report in reporter.steps] == [1, 2, 3, 4]
    for report in reporter.steps:
        ledger = report.ledger
        assert ledger.rollouts == 3 * which.rollout.samples
        assert ledger.contexts == ledger.scored_sequences == ledger.stamped_sequences
        assert ledger.scored_sequences == ledger.rollouts * len(which.contexts)
    asked = sum(len(request.completions) for _, request in scorer.asked)
    assert asked == sum(report.ledger.scored_sequences for report in reporter.steps)
    assert [each.step for each in reporter.evaluations] == [0, 2, 4]
    assert [step for step, _ in reporter.checkpoints] == [2, 4]


def test_the_same_seed_gives_the_same_run_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    runs = [go(folder, tmp_path / str(i), recipe(), seed=seed)[1].losses for i, seed in enumerate((7, 7, 8))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_taken_up_again_continues_the_same_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(writer, "PART_ROLLOUTS", 2)
    whole, everything, _ = go(folder, tmp_path / "whole", recipe(), steps=5)
    first, head, _ = go(
        folder, tmp_path / "a", recipe(), lambda step: Signal.STOP if step == stop else Signal.GO, steps=5
    )
    assert first.signal is Signal.STOP and first.step == stop and first.result is None
    last = head.checkpoints[-1]
    assert last[0] == stop
    second, tail, _ = go(folder, tmp_path / "b", recipe(), resume=last[1], steps=5)
    assert head.losses + tail.losses == everything.losses
    assert whole.model is not None and second.model is not None and whole.result is not None
    assert torch.equal(weights_of(load_model(whole.model)), weights_of(load_model(second.model)))
    assert second.result is not None and second.result.before == whole.result.before
    assert second.result.ci95 == whole.result.ci95


def test_a_run_that_died_after_its_last_step_only_needs_its_result(folder: Path, tmp_path: Path) -> None:
    whole, reporter, _ = go(folder, tmp_path / "a", recipe())
    again, rest, _ = go(folder, tmp_path / "b", recipe(), resume=reporter.checkpoints[-1][1])
    assert rest.steps == [] and again.result is not None and whole.result is not None
    assert again.result == whole.result
    assert again.model is not None and again.model.is_dir()


@pytest.mark.parametrize("signal", [Signal.CANCEL, Signal.PAUSE])
def test_a_signal_ends_the_run_within_the_step_and_leaves_a_checkpoint(
    folder: Path, tmp_path: Path, signal: Signal
) -> None:
    ended, reporter, _ = go(folder, tmp_path, recipe(), lambda step: signal)
    assert ended == Ended(signal=signal, step=1)
    assert [step for step, _ in reporter.checkpoints] == [1]
    assert load_state(reporter.checkpoints[0][1]).step == 1


def test_only_the_last_checkpoint_is_kept_here(folder: Path, tmp_path: Path) -> None:
    _, reporter, _ = go(folder, tmp_path, recipe(), checkpoint_every=1)
    assert [step for step, _ in reporter.checkpoints] == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000004"]


def test_samples_show_every_token_with_everybody_s_score(folder: Path, tmp_path: Path) -> None:
    _, reporter, _ = go(folder, tmp_path, recipe("opd"), samples_kept=2, steps=1)
    assert len(reporter.samples) == 2
    for sample in reporter.samples:
        assert sample.stamps["teacher"].teacher == "teacher"
        assert len(sample.stamps["teacher"].context_hashes) == 1
        assert sample.tokens and all(set(token.teachers) == {"teacher"} for token in sample.tokens)
        assert all(token.student < 0 for token in sample.tokens)


class _Poisoned(LocalScorer):
    """Whatever `spoil` makes of honest answers."""

    spoil: Callable[[Scores], Scores] = staticmethod(lambda scores: scores)

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        return self.spoil(super().score(role, request, on_failure=on_failure))


class _Away(LocalScorer):
    """Gives no answer in step 2, of which the data tells it."""

    step = 0

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        if self.step == 2:
            raise TeacherUnavailable(f"Teacher '{role}' gave no answer.", teacher=role)
        return super().score(role, request, on_failure=on_failure)


class _Telling(ToyData):
    def __init__(self, scorer: _Away) -> None:
        self._scorer = scorer

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        self._scorer.step = step
        return super().train(step, batch, seed)


@pytest.mark.parametrize("name", ["opsd", "opd"])
def test_a_step_that_nobody_answered_for_teaches_nothing_and_says_so(folder: Path, tmp_path: Path, name: str) -> None:
    which = recipe(name)
    which = which.override({"contexts": {each: {"on_failure": "drop"} for each in which.contexts}})
    other = tiny_model_folder(tmp_path / "other", seed=5)  # of the same weights it would have nothing to teach
    scorer, reporter = _Away({role: load_model(other) for role in which.roles}), Remembering()
    train(toy_run(which), folder, _Telling(scorer), scorer, reporter, tmp_path)
    for report in reporter.steps:
        lost = report.step == 2
        assert report.metrics["empty"] == float(lost) and (report.metrics["grad_norm"] == 0.0) == lost
        assert report.ledger.scored_sequences == (0 if lost else report.ledger.contexts)
    assert [report.step for report in reporter.steps] == [1, 2, 3, 4]


def test_a_teacher_that_leaves_tokens_out_ends_the_run(folder: Path, tmp_path: Path) -> None:
    scorer = _Poisoned({"self": load_model(folder)})
    scorer.spoil = lambda scores: replace(scores, offsets=np.maximum(scores.offsets - 1, 0))
    with pytest.raises(MissingScore, match=r"teacher 'self' \(role 'self'\) was asked about"):
        train(toy_run(recipe()), folder, ToyData(), scorer, Remembering(), tmp_path)


def test_hidden_states_without_a_number_end_the_run_and_keep_the_last_checkpoint(folder: Path, tmp_path: Path) -> None:
    scorer, reporter = _Poisoned({"self": load_model(folder)}), Remembering()

    def spoil(scores: Scores) -> Scores:
        if len(reporter.steps) < 2 or scores.hidden_TD is None:
            return scores
        return replace(scores, hidden_TD=scores.hidden_TD * np.float32("nan"))

    scorer.spoil = spoil
    with pytest.raises(BadScores, match="differ by nan nats"):
        train(toy_run(recipe()), folder, ToyData(), scorer, reporter, tmp_path)
    assert [step for step, _ in reporter.checkpoints] == [2]
    assert load_state(reporter.checkpoints[0][1]).step == 2


def test_a_checkpoint_that_cannot_be_written_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match="the checkpoint at step 2 could not be written"):
        train(toy_run(recipe("sft")), folder, ToyData(), LocalScorer({}), Remembering(), blocked)


def test_a_half_written_checkpoint_is_not_read(folder: Path, tmp_path: Path) -> None:
    _, reporter, _ = go(folder, tmp_path, recipe("sft"))
    broken = reporter.checkpoints[-1][1]
    (broken / "state.json").write_text(json.dumps({"step": 4}))
    with pytest.raises(CheckpointError, match="is not a checkpoint of this version"):
        load_state(broken)


def test_the_final_model_is_a_plain_folder(folder: Path, tmp_path: Path) -> None:
    ended, _, _ = go(folder, tmp_path, recipe("sft"))
    assert ended.model is not None
    names = {path.name for path in ended.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    trained = load_model(ended.model)
    assert not torch.equal(weights_of(trained), weights_of(load_model(folder)))


class OneByOne(Pipeline):
    """The same stages one after another, in one thread."""

    def __init__(
        self, steps: range, max_lag: int, tasks: Callable[[int], Any], write: Any, stages: dict[str, Stage]
    ) -> None:
        self._all = tasks, write, stages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def publish(self, version: int) -> None:
        pass

    def take(self, step: int, wanted: object = None, together: object = None) -> Taken:
        tasks, write, stages = self._all
        parts: list[Part] = []
        for part in write(tasks(step), step, lambda: None):
            for stage in stages.values():
                part = stage(part)
            parts.append(part)
        return Taken(parts=sorted(parts, key=lambda part: part.index), times=Times())


@pytest.mark.parametrize("name", ["opsd", "opd"])
def test_at_the_same_time_or_one_by_one_gives_the_same_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(writer, "PART_ROLLOUTS", 2)
    which = recipe(name, samples=2)
    together, fast, scorer = go(folder, tmp_path / "a", which, batch=4)
    assert len(scorer.asked) == 4 * 4, "four parts a step"
    monkeypatch.setattr(loop, "Pipeline", OneByOne)
    one_by_one, slow, _ = go(folder, tmp_path / "b", which, batch=4)
    keep = ("seconds", "tokens_per_second")
    assert [{k: v for k, v in each.metrics.items() if k not in keep} for each in fast.steps] == [
        {k: v for k, v in each.metrics.items() if k not in keep} for each in slow.steps
    ]
    assert together.model is not None and one_by_one.model is not None
    assert torch.equal(weights_of(load_model(together.model)), weights_of(load_model(one_by_one.model)))


@pytest.mark.parametrize("max_lag", [1, 3])
def test_ahead_of_the_learner_rollouts_are_no_older_than_allowed(folder: Path, tmp_path: Path, max_lag: int) -> None:
    ended, reporter, _ = go(folder, tmp_path, recipe(), steps=8, max_lag=max_lag)
    assert ended.signal is Signal.GO and len(reporter.steps) == 8
    lags = [report.metrics["lag"] for report in reporter.steps]
    assert lags[0] == 0 and max(lags) <= max_lag
    assert all(np.isfinite(loss) for loss in reporter.losses)
    assert all(report.ledger.rollouts == 3 for report in reporter.steps)


def test_what_a_recipe_finds_stale_is_written_anew_by_the_newest_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Freshness, "stale", lambda *_: True)
    ended, reporter, _ = go(folder, tmp_path, recipe("f_opd"), steps=5, max_lag=3)
    assert ended.signal is Signal.GO and [report.step for report in reporter.steps] == [1, 2, 3, 4, 5]
    assert [(report.metrics["lag"], report.metrics["stale"]) for report in reporter.steps] == [(0, 1)] * 5


def test_a_step_says_where_its_time_went(folder: Path, tmp_path: Path) -> None:
    _, reporter, _ = go(folder, tmp_path, recipe(samples=3))
    for report in reporter.steps:
        assert {"data", "sample", "verify", "score", "learn"} <= set(report.ledger.seconds)
        assert {"sample/weights", "score/rollouts", "learn/rollouts"} <= set(report.ledger.idle)
        tokens = report.ledger.tokens
        assert tokens["prompt"] > tokens["prompt_read"] > 0 and tokens["completion"] > 0
        assert report.metrics["lag"] == 0


class _Impatient(Remembering):
    """Wants the run to stop as soon as a teacher was asked for the second step's rollouts."""

    def __init__(self, asked: list[object]) -> None:
        super().__init__()
        self._asked = asked

    def signal(self) -> Signal:
        return Signal.CANCEL if len(self._asked) > 1 else Signal.GO


def test_a_run_that_waits_for_a_teacher_can_be_cancelled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LEAVE_SECONDS", 0.01)
    scorer, release = _Poisoned({"self": load_model(folder)}), threading.Event()

    def hang(scores: Scores) -> Scores:
        if len(scorer.asked) > 1:
            release.wait(20)
        return scores

    scorer.spoil = hang
    reporter = _Impatient(scorer.asked)  # pyright: ignore[reportArgumentType]
    ended = train(toy_run(recipe()), folder, ToyData(), scorer, reporter, tmp_path)
    release.set()
    assert ended == Ended(signal=Signal.CANCEL, step=1)
    assert [step for step, _ in reporter.checkpoints] == [1]
    assert load_state(reporter.checkpoints[0][1]).step == 1
