"""Every recipe takes real steps: a real student writes, real teachers of this process score, the weights move.

Where a recipe wants text, the scripted teacher writes it: its rules, over the very prompts that it would be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from preceptor.wire.chat import ChatRequest, Reply
from preceptor_services.teacher import scripts
from preceptor_trainer import recipes
from preceptor_trainer.loop import train
from preceptor_trainer.model import load_model
from preceptor_trainer.recipe import Recipe, Verifier
from preceptor_trainer.reporting import Signal
from preceptor_trainer.standing import STANDING, WHOLE, Seen, Standing
from preceptor_trainer.views import Message, Task, Verdict
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, Served, ToyData, toy_run, weights_of


class EvenLength(Verifier, kind="test_even_length"):
    """A student that knows nothing yet is right about every other time."""

    def __call__(self, task: Task, text: str) -> Verdict:
        correct = len(text) % 2 == 0
        return Verdict(reward=float(correct), correct=correct, feedback=None if correct else "an odd length")


class WholeData(ToyData):
    """Toy data with every column that a recipe's contexts read."""

    verifier: Verifier = EvenLength()

    def __init__(self, recipe: Recipe) -> None:
        asked = {name for context in recipe.contexts.values() for name in context.columns}
        self._more = sorted(asked - ToyData.columns)
        self.columns = ToyData.columns | asked
        revealing = [context for context in recipe.contexts.values() if context.reveals]
        self._revealed = {name for context in revealing for name in context.columns}
        self._asks = bool(recipe.writers)
        self._domains = [role for router in recipe.routers.values() for role in router.experts]

    def _task(self, rng: Random) -> Task:
        task = super()._task(rng)
        if self._asks:  # in words that the scripted teacher knows
            question = f"Spell this word backward (example: sun -> nus): {task.id}"
            task = replace(task, messages=(Message(role="user", content=question),))
        columns = {name: f"{name}: {task.answer if name in self._revealed else 'with care'}" for name in self._more}
        return replace(task, columns=columns | ({"domain": rng.choice(self._domains)} if self._domains else {}))


class BetterPeer:
    """A pair whose other side is better at everything."""

    def publish(self, *told: object, **named: object) -> None:
        pass

    def meet(self, step: int) -> Mapping[str, Standing]:
        return {WHOLE: Standing(own=Seen(0, 30), peer=Seen(30, 0))}

    def metrics(self, step: int) -> dict[str, float]:
        return {}


def scripted(role: str, request: ChatRequest) -> Reply:
    return Reply(text=scripts.reply(request.messages[-1].content), finished=True)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_takes_real_steps(tmp_path: Path, name: str) -> None:
    folder = tiny_model_folder(tmp_path / "model")
    work = tmp_path / "work"
    work.mkdir()
    recipe = recipes.load(name).override({"rollout": {"max_tokens": 8}})
    models = {role: load_model(folder) for role in recipe.scorers if role == "self"}
    others = sorted(recipe.scorers - {"self"})
    models |= {role: load_model(tiny_model_folder(tmp_path / role, seed=5 + n)) for n, role in enumerate(others)}
    scorer, reporter = LocalScorer(models, scripted), Remembering()
    served = Served(models["self"]) if recipe.teacher.kind != "frozen" else None
    run = toy_run(recipe, steps=2, warmup_steps=0, learning_rate=1e-3)
    pair = BetterPeer() if recipe.readers(STANDING) else None
    ended = train(run, folder, WholeData(recipe), scorer, reporter, work, publisher=served, pair=pair)
    assert ended.signal is Signal.GO and ended.model is not None
    assert [report.step for report in reporter.steps] == [1, 2]
    for report in reporter.steps:
        ledger = report.ledger
        assert ledger.rollouts == 3 * recipe.rollout.samples
        assert ledger.contexts == ledger.scored_sequences == ledger.stamped_sequences
        opinions = sum(len(context.scorers) for context in recipe.contexts.values())
        assert 0 < ledger.contexts <= ledger.rollouts * opinions or not recipe.contexts
        assert (sum(each.texts for each in ledger.teachers.values()) > 0) == bool(recipe.writers)
        assert not any(each.unreadable or each.unwritten for each in ledger.teachers.values())
    assert any(report.metrics["empty"] == 0 and report.metrics["grad_norm"] > 0 for report in reporter.steps)
    assert not torch.equal(weights_of(load_model(ended.model)), weights_of(load_model(folder)))
