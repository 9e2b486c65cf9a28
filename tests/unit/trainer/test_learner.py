"""One optimizer step on a real model: cuts, reductions to nothing, what moves and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preceptor.wire.runs import Training
from preceptor_trainer import learner as learning
from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch, build_batch
from preceptor_trainer.grouping import cuts
from preceptor_trainer.learner import Learner
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, ToyData, weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def opsd(**changes: object) -> Recipe:
    return recipes.load("opsd").override({"rollout": {"max_tokens": 10, "samples": 2}, **changes})


def batch_of(recipe: Recipe, student: Model, teacher: Model, tasks: int = 4) -> Batch:
    rows = Writer(recipe.rollout, student, LocalSampler(student), seed=0).write(ToyData().train(1, tasks, 0), 1)
    dtype = next(student.module.parameters()).dtype
    scorer = LocalScorer(dict.fromkeys(recipe.roles, teacher))
    return build_batch(rows, Opinions(recipe, student, scorer, 0, dtype).ask(rows, 1).slots, 1, dtype)


def gradient(recipe: Recipe, model: Model, batch: Batch, **training: int) -> tuple[float, torch.Tensor]:
    """Loss and the whole gradient as one vector."""
    learner = Learner(recipe, model, Training.model_validate(training))
    learner.optimizer.zero_grad()
    sums = learner.gradient(batch)
    assert sums is not None
    return sums.loss, torch.cat([each.grad.flatten() for each in model.module.parameters() if each.grad is not None])


@pytest.mark.parametrize("name", ["opsd", "opd"])
def test_without_privileged_context_and_with_the_same_weights_nothing_is_learned(folder: Path, name: str) -> None:
    recipe = recipes.load(name).override({"rollout": {"max_tokens": 10}})
    context = next(iter(recipe.contexts))
    plain = recipe.override({"contexts": {context: {"kind": "plain", "teacher": "self"}}})
    student, teacher = load_model(folder), load_model(folder)
    loss, grad = gradient(plain, student, batch_of(plain, student, teacher))
    assert abs(loss) < 1e-7
    assert grad.abs().max() < 1e-6


def test_the_reference_teaches_something(folder: Path) -> None:
    student, teacher = load_model(folder), load_model(folder)
    loss, grad = gradient(opsd(), student, batch_of(opsd(), student, teacher))
    assert loss > 1e-3
    assert grad.norm() > 1e-3


def test_a_batch_may_be_cut_anyhow(folder: Path) -> None:
    student, teacher = load_model(folder), load_model(folder)
    batch = batch_of(opsd(), student, teacher)
    assert len(cuts(batch.rows, student.module, 10**6)) == 1
    whole_loss, whole = gradient(opsd(), student, batch, microbatch_tokens=10**6)
    for tokens in (1, 60, 150):
        assert len(cuts(batch.rows, student.module, tokens)) > 1
        loss, cut = gradient(opsd(), student, batch, microbatch_tokens=tokens)
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)


def test_a_pass_on_a_cpu_keeps_to_its_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = load_model(folder)
    assert learning.pass_tokens(student, Training(microbatch_tokens=1000)) == 1000
    monkeypatch.setattr(learning, "KEPT_BYTES", 300 * 80 * 32 * 2)
    assert learning.pass_tokens(student, Training()) == 300, "two layers, 32 wide"
    assert learning.pass_tokens(student, Training(gradient_checkpointing=True)) == Training().microbatch_tokens
    monkeypatch.setattr(learning, "KEPT_BYTES", 1)
    assert learning.pass_tokens(student, Training()) == learning.FEWEST


@pytest.mark.parametrize("gated", [False, True])
def test_the_student_is_read_once_and_what_a_step_shows_comes_of_that(folder: Path, gated: bool) -> None:
    """But where weights want the whole batch first: then it is read once more, without a gradient."""
    recipe = opsd(weights=[{"kind": "entropy_gate", "least": 0.01}] if gated else [])
    student = load_model(folder)
    batch = batch_of(recipe, student, load_model(folder))
    passes = list[bool]()
    student.module.base_model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    shown = Learner(recipe, student, Training()).learn(batch)
    assert passes == ([False, True] if gated else [True])
    assert {"jsd", "jsd/largest", "student_entropy", "reference/entropy", "reference/log_ratio"} <= shown.keys()
    assert {"reference/top1_agreement", "reference/top8_overlap", "sampler_gap"} <= shown.keys()


def test_the_teacher_never_moves_and_never_receives_a_gradient(folder: Path) -> None:
    student, teacher = load_model(folder), load_model(folder)
    before = weights_of(teacher).clone()
    learner = Learner(opsd(), student, Training(warmup_steps=0))
    learner.learn(batch_of(opsd(), student, teacher))
    assert not torch.equal(weights_of(student), before)
    assert torch.equal(weights_of(teacher), before)
    assert all(each.grad is None for each in teacher.module.parameters())


def test_steps_bring_the_student_closer_to_its_privileged_self(folder: Path) -> None:
    student, teacher = load_model(folder), load_model(folder)
    batch = batch_of(opsd(), student, teacher)
    learner = Learner(opsd(), student, Training(warmup_steps=0, learning_rate=1e-3))
    losses = [learner.learn(batch)["loss"] for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_batch_in_which_nothing_counts_moves_nothing_and_says_so(folder: Path) -> None:
    recipe = recipes.load("opsd").override({"contexts": {"reference": {"kind": "peer_success"}}})
    student = load_model(folder)
    before = weights_of(student).clone()
    metrics = Learner(recipe, student, Training()).learn(batch_of(recipe, student, student))
    assert metrics["empty"] == 1.0 and metrics["loss"] == 0.0
    assert torch.equal(weights_of(student), before)


def test_opsd_s_claim_to_reduce_to_opd_in_expectation(folder: Path) -> None:
    """Every `Reduces` of a recipe: the sampled gradient's mean over many rollouts nears the full one's."""
    recipe = recipes.load("opsd")
    (claim,) = recipe.reduces
    student = load_model(folder)
    teacher = load_model(tiny_model_folder(folder.parent / "other", seed=5))
    short = {"rollout": {"max_tokens": 1, "samples": 1000}}
    full, sampled = recipe.override(claim.when).override(short), recipes.load(claim.to).override(short)
    task = ToyData().train(1, 1, 0)
    rows = Writer(full.rollout, student, LocalSampler(student, max_rows=1000), seed=0).write(task, 1)
    gradients: list[torch.Tensor] = []
    for each in (full, sampled):
        scorer = LocalScorer(dict.fromkeys(each.roles, teacher))
        asked = Opinions(each, student, scorer, 0, torch.float32).ask(rows, 1)
        gradients.append(gradient(each, student, build_batch(rows, asked.slots, 1, torch.float32))[1])
    cosine = torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert cosine > 0.97
    assert gradients[1].norm() == pytest.approx(float(gradients[0].norm()), rel=0.15)
