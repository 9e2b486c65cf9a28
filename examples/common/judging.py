"""Any model on held-out questions: greedy, with the plain prompt, by the questions' own verifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from preceptor_trainer.evaluate import Evaluator
from preceptor_trainer.model import load_model
from preceptor_trainer.recipe import Verifier
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.tasks import ProceduralTask
from preceptor_trainer.views import Task


def judge(model: Path, questions: Sequence[Task], verifier: Verifier, max_tokens: int) -> list[bool]:
    """Right or wrong, in the order of the questions."""
    loaded = load_model(model)
    evaluator = Evaluator(loaded, LocalSampler(loaded), questions, verifier, max_tokens)
    return list(evaluator.evaluate(0).hits)


def judge_task(model: Path, task: ProceduralTask, count: int, max_tokens: int) -> list[bool]:
    """The same on a task's first `count` held-out questions, which no run was trained on."""
    return judge(model, task.held_out(count), task.verifier, max_tokens)
