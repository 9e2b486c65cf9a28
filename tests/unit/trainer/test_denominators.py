"""A denominator is global: microbatches and ranks give the same gradient, however a batch is cut."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from preceptor.wire.runs import Training
from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch, build_batch
from preceptor_trainer.grouping import cuts
from preceptor_trainer.learner import Learner
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.views import Verdict
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, ToyData, weights_of

CUTS = (1, 2, 7)

WEIGHED: dict[str, object] = {
    "rollout": {"samples": 2, "max_tokens": 10},
    "objective": [
        {"kind": "jsd", "beta": 0.5, "weights": [{"kind": "importance_truncate", "most": 1.5}]},
        {"kind": "sampled_reverse_kl", "coefficient": 0.3, "weights": [{"kind": "group_advantage"}]},
    ],
}
"""Two terms, with weights that look at the whole batch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def opsd(reduction: str, **changes: object) -> Recipe:
    return recipes.load("opsd").override({"rollout": {"max_tokens": 10}, "reduction": reduction, **changes})


def student_in(folder: Path, dtype: torch.dtype) -> Model:
    model = load_model(folder)
    model.module.to(dtype)  # pyright: ignore[reportArgumentType]
    return model


def batch_of(recipe: Recipe, model: Model, teacher: Model) -> Batch:
    dtype = next(model.module.parameters()).dtype
    written = Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(ToyData().train(1, 7, 0), 1)
    rows = [
        replace(row, verdict=Verdict(reward=float(index % 3 == 0), correct=False)) for index, row in enumerate(written)
    ]
    slots = Opinions(recipe, model, LocalScorer({"self": teacher}), 0, dtype).ask(rows, 1).slots
    return build_batch(rows, slots, 1, dtype)


def budget(batch: Batch, model: Model, count: int) -> int:
    """A number of tokens that cuts the batch so often."""
    sizes = (10**6, *range(1000, 0, -7), 1)
    return next(size for size in sizes if len(cuts(batch.rows, model.module, size)) == count)


def gradient(recipe: Recipe, model: Model, batch: Batch, size: int) -> tuple[float, torch.Tensor]:
    learner = Learner(recipe, model, Training(microbatch_tokens=size))
    learner.optimizer.zero_grad()
    sums = learner.gradient(batch)
    assert sums is not None
    return sums.loss, torch.cat([each.grad.flatten() for each in model.module.parameters() if each.grad is not None])


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("changes", [{}, WEIGHED], ids=["plain", "weighed"])
def test_one_two_and_seven_microbatches_give_one_gradient(
    folder: Path, reduction: str, changes: dict[str, object]
) -> None:
    recipe = opsd(reduction, **changes)
    student = student_in(folder, torch.float32)
    batch = batch_of(recipe, student, load_model(folder))
    found = [gradient(recipe, student, batch, budget(batch, student, count)) for count in CUTS]
    for loss, grad in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(grad, found[0][1], atol=1e-6, rtol=1e-5)


def test_one_two_and_seven_microbatches_make_the_same_update(folder: Path) -> None:
    """In float64, where nothing but the order of additions differs."""
    updates: list[torch.Tensor] = []
    for count in CUTS:
        student = student_in(folder, torch.float64)
        recipe = opsd("token")
        batch = batch_of(recipe, student, student_in(folder, torch.float64))
        before = weights_of(student).clone()
        size = budget(batch, student, count)
        Learner(recipe, student, Training(warmup_steps=0, microbatch_tokens=size)).learn(batch)
        updates.append(weights_of(student) - before)
    assert updates[0].abs().max() > 1e-5
    for update in updates[1:]:
        torch.testing.assert_close(update, updates[0], atol=1e-10, rtol=0)


RANK = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tests.unit.trainer.test_loss_reference import DIVERGENCES, case, recipe
from preceptor_trainer.loss import blank_scalars, fold
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.weighing import weigh

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
on = case({"a": ["topk"]})
given = recipe(DIVERGENCES["jsd"], contexts=["a"], target=Single(context="a"))
view = on.batch.view(blank_scalars(on.batch, torch.float64))
plans = weigh(given, view, None)
half = on.batch.offsets[3]
begin, end = ((0, half), (half, on.batch.tokens))[rank]
_, sums = fold(given, on.batch, view, plans, on.head, on.hidden_TD[begin:end], begin)
loss, grad = torch.tensor(sums.loss, dtype=torch.float64), on.head.weight_VD.grad
dist.all_reduce(loss)
dist.all_reduce(grad)
save_file({"loss": loss, "grad": grad}, f"{out}/{rank}.safetensors")
dist.destroy_process_group()
"""


def test_two_ranks_add_up_to_one(tmp_path: Path) -> None:
    """Each walks its own rows under the global batch's denominators; sums over ranks are the whole's."""
    from tests.unit.trainer.test_loss_reference import DIVERGENCES, Single, case, composed, recipe

    arguments = [str(tmp_path / "store"), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RANK, str(rank), *arguments],
            cwd=Path(__file__).parents[3],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    wanted = composed(recipe(DIVERGENCES["jsd"], contexts=["a"], target=Single(context="a")), case({"a": ["topk"]}))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert float(found["loss"]) == pytest.approx(wanted[0], abs=1e-12)
        torch.testing.assert_close(found["grad"], wanted[2], atol=1e-12, rtol=0)
