"""A reference beside questions that it is not of."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.model import load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.contexts_shuffled import Shuffled
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.tasks import load
from preceptor_trainer.views import ContextView, Rollout
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, ToyData

TASKS = load("spell_backward").held_out(5)


def view(seed: int = 0, tasks: int = 5) -> ContextView:
    own = Rollout(index=0, text="")
    return ContextView(task=TASKS[0], rollout=own, group=(own,), step=1, rng=Random(seed), others=TASKS[:tasks])


@pytest.mark.parametrize("inputs", [1, 3, 9])
def test_the_reference_stays_and_the_question_is_another(inputs: int) -> None:
    prompts = Shuffled(inputs=inputs).prompts(view())
    questions = {each.messages[0]["content"] for each in TASKS[1:]}
    assert len(prompts) == min(inputs, 4)
    assert sum(each.weight for each in prompts) == pytest.approx(1.0)
    seen = {each.messages[0]["content"].partition("\n")[0] for each in prompts}
    assert len(seen) == len(prompts) and seen <= questions
    assert all(str(TASKS[0].reference) in each.messages[0]["content"] for each in prompts)
    assert Shuffled(inputs=inputs).prompts(view()) == prompts, "drawn from the view's numbers"


def test_wrong_content_is_as_wrong_as_the_references() -> None:
    (prompt,) = Shuffled(wrong=True).prompts(view(3))
    assert str(TASKS[0].reference) not in prompt.messages[0]["content"]


def test_a_step_of_one_question_has_nothing_to_compare_with() -> None:
    assert not Shuffled().prompts(view(tasks=1))
    assert Shuffled().messages(view(tasks=1)) is None
    assert Reference().messages(view(tasks=1)) is not None


def test_which_questions_does_not_depend_on_how_a_batch_is_cut(tmp_path: Path) -> None:
    model, data = load_model(tiny_model_folder(tmp_path)), ToyData()
    changes = {"rollout": {"max_tokens": 4, "samples": 2}, "contexts": {"reference": {"kind": "shuffled", "inputs": 2}}}
    recipe = recipes.load("opsd").override(changes)
    tasks = data.train(1, 3, 0)
    rows = Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(tasks, 1)

    def prompts(cut: int) -> list[tuple[int, ...]]:
        scorer = LocalScorer({"self": model})
        opinions = Opinions(recipe, model, scorer, 0, torch.float32, tasks=lambda step: tasks)
        heard = [opinions.hear(some, 1) for some in (rows[:cut], rows[cut:]) if some]
        return [wish.ids for part in heard for wish in part.wishes]

    assert len(prompts(0)) == 2 * len(rows)
    assert prompts(2) == prompts(4) == prompts(0)
