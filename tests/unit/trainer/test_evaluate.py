"""Accuracy and its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preceptor_trainer.evaluate import Z95, Evaluator, gain_interval, half_width, mean_half_width
from preceptor_trainer.model import Model, load_model, prompt_ids
from preceptor_trainer.sampler import Completion, Job, LocalSampler
from preceptor_trainer.verifiers import Exact
from preceptor_trainer.views import Message, Task
from tests.models import tiny_model_folder


def test_the_interval_of_a_share_is_wilson_s() -> None:
    assert half_width(100, 200) == pytest.approx(0.0686, abs=1e-3)
    assert half_width(0, 200) > 0
    assert half_width(200, 200) == pytest.approx(half_width(0, 200))


@given(hits=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_gain_is_inside_its_interval_and_flips_with_its_sign(hits: list[tuple[bool, bool]]) -> None:
    before, after = [b for b, _ in hits], [a for _, a in hits]
    low, high = gain_interval(before, after)
    gain = (sum(after) - sum(before)) / len(hits)
    assert low <= gain <= high
    assert gain_interval(after, before) == pytest.approx((-high, -low))


def test_pairing_makes_the_interval_narrow_where_few_answers_changed() -> None:
    before = [True] * 50 + [False] * 50
    after = [True] * 50 + [True] * 5 + [False] * 45
    low, high = gain_interval(before, after)
    assert 0 < low < 0.05 < high < 0.1


def test_other_tasks_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same tasks before and after, not 2 and 1"):
        gain_interval([True, False], [True])


def test_an_interval_over_tasks_is_wider_than_one_over_answers() -> None:
    shares = [1.0, 1.0, 0.0, 0.0] * 10
    assert mean_half_width(shares) == pytest.approx(Z95 * (40 / 39 * 0.25 / 40) ** 0.5)
    assert mean_half_width([1.0] * 40) == half_width(40, 40), "all alike is not certain"
    assert mean_half_width([0.5] * 40) == half_width(20, 40)


class Written(LocalSampler):
    """A sampler whose sampled answers are right as often as it is told; the greedy one is wrong."""

    def __init__(self, model: Model, right: str, often: int) -> None:
        super().__init__(model)
        self._right = tuple(model.tokenizer.encode(right))
        self._often = often
        self.seeds: list[list[int]] = []

    def sample(self, jobs: Sequence[Job], temperature: float) -> list[Completion]:
        self.seeds.append([job.seed for job in jobs])
        wrong = Completion(token_ids=(5, 6), logprobs=(0.0, 0.0), finished=True)
        right = Completion(token_ids=self._right, logprobs=(0.0,) * len(self._right), finished=True)
        return [right if temperature and index % 4 < self._often else wrong for index in range(len(jobs))]


def test_sampled_answers_are_averaged_by_task_and_drawn_alike_every_time(tmp_path: Path) -> None:
    model = load_model(tiny_model_folder(tmp_path / "m"))
    tasks = [Task(id=str(n), messages=(Message(role="user", content=f"{n}?"),), answer="yes") for n in range(3)]
    sampler = Written(model, "yes", often=3)
    evaluator = Evaluator(model, sampler, tasks, Exact(), max_tokens=4, samples=4, temperature=0.8)
    first = evaluator.evaluate(0)
    assert (first.accuracy, first.samples, first.sampled_accuracy, first.score) == (0.0, 4, 0.75, 0.75)
    assert first.sampled_ci95 == half_width(2, 3)
    evaluator.evaluate(1)
    assert sampler.seeds[1] == sampler.seeds[3] and len(set(sampler.seeds[1])) == 12


def test_entropy_is_that_of_the_student_s_own_distributions(tmp_path: Path) -> None:
    model = load_model(tiny_model_folder(tmp_path / "m"))
    tasks = [Task(id="1", messages=(Message(role="user", content="1?"),), answer="yes")]
    found = Evaluator(model, Written(model, "yes", 0), tasks, Exact(), max_tokens=4).evaluate(0)
    ids = torch.tensor([[*prompt_ids(model, tasks[0].messages), 5, 6]])
    with torch.no_grad():
        logprobs = model.module(ids).logits[0, -3:-1].double().log_softmax(-1)
    assert found.entropy == pytest.approx(float(-(logprobs.exp() * logprobs).sum(-1).mean()), abs=1e-5)
    assert (found.samples, found.sampled_accuracy, found.score) == (0, None, found.accuracy)
    assert found.mean_length == 2.0, "tokens, as written"
