"""AdamW with warm-up and clipping, and a state that goes on where it stopped."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from preceptor.wire.runs import Training
from preceptor_trainer.optim import NonFiniteGradient, Optimizer
from preceptor_trainer.parts.constraints import Named, Sparse
from preceptor_trainer.recipe import AllWeights, Constraint


class _OnlyBias(Constraint, kind="test_only_bias"):
    """Biases alone."""

    def trains(self, parameter: str) -> bool:
        return parameter.endswith("bias")


class _Nothing(Constraint, kind="test_nothing"):
    """No parameter at all."""

    def trains(self, parameter: str) -> bool:
        return False


def module() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def push(layer: nn.Linear, optimizer: Optimizer, step: int, scale: float = 1.0) -> float:
    (scale * layer(torch.ones(1, 3))).square().sum().backward()
    return optimizer.step(step)


def test_warm_up_is_linear_and_ends() -> None:
    optimizer = Optimizer(module(), Training(learning_rate=1.0, warmup_steps=4), AllWeights())
    assert [optimizer.learning_rate(step) for step in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert Optimizer(module(), Training(learning_rate=1.0, warmup_steps=0), AllWeights()).learning_rate(1) == 1.0


def test_a_long_gradient_is_scaled_to_the_bound_and_its_norm_told() -> None:
    small, large = module(), module()
    settings = Training(clip_norm=1e-3, warmup_steps=0)
    norms = [push(small, Optimizer(small, settings, AllWeights()), 1, 1.0)]
    norms.append(push(large, Optimizer(large, settings, AllWeights()), 1, 10.0))
    assert norms[1] == pytest.approx(100 * norms[0], rel=1e-4)
    torch.testing.assert_close(small.weight, large.weight, atol=1e-6, rtol=1e-4)


def test_a_gradient_without_a_number_changes_nothing() -> None:
    layer = module()
    before = layer.weight.detach().clone()
    optimizer = Optimizer(layer, Training(), AllWeights())
    with pytest.raises(NonFiniteGradient, match="the gradient's norm is nan at step 3"):
        push(layer, optimizer, 3, float("nan"))
    assert torch.equal(layer.weight, before)


def test_a_constraint_holds_the_rest_still() -> None:
    layer = module()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    push(layer, Optimizer(layer, Training(warmup_steps=0, weight_decay=0.1), _OnlyBias()), 1)
    assert torch.equal(layer.weight, weight)
    assert not torch.equal(layer.bias, bias)
    with pytest.raises(ValueError, match="no parameter of this student may move"):
        Optimizer(module(), Training(), _Nothing())


def test_a_saved_state_goes_on_with_the_same_numbers() -> None:
    straight, stopped = module(), module()
    settings = Training(warmup_steps=2)
    optimizer = Optimizer(straight, settings, AllWeights())
    for step in range(1, 7):
        push(straight, optimizer, step)
    first = Optimizer(stopped, settings, AllWeights())
    for step in range(1, 4):
        push(stopped, first, step)
    second = Optimizer(stopped, settings, AllWeights())
    second.load({name: value.clone() for name, value in first.state().items()})
    for step in range(4, 7):
        push(stopped, second, step)
    assert torch.equal(straight.weight, stopped.weight)


def test_a_state_of_another_model_is_refused() -> None:
    optimizer = Optimizer(module(), Training(), AllWeights())
    with pytest.raises(ValueError, match="of other parameters: elsewhere"):
        optimizer.load({"elsewhere/exp_avg": torch.zeros(1)})


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 0.82, 0.64, 0.46, 0.28]),
        ("cosine", [0.5, 1.0, 0.9140576, 0.6890576, 0.4109424, 0.1859424]),
    ],
)
def test_a_schedule_goes_from_the_peak_to_its_end_one_step_after_the_last(
    schedule: Literal["constant", "linear", "cosine"], rates: list[float]
) -> None:
    final = None if schedule == "constant" else 0.1
    settings = Training(steps=6, learning_rate=1.0, warmup_steps=2, schedule=schedule, final_learning_rate=final)
    optimizer = Optimizer(module(), settings, AllWeights())
    assert [optimizer.learning_rate(step) for step in range(1, 7)] == pytest.approx(rates)
    assert optimizer.learning_rate(7) == pytest.approx(1.0 if final is None else final)


@pytest.mark.parametrize("choose", ["largest", "smallest", "random"])
def test_a_mask_holds_the_update_and_leaves_the_gradient_whole(
    choose: Literal["largest", "smallest", "random"],
) -> None:
    layer, free = module(), module()
    before = layer.weight.detach().clone()
    settings = Training(warmup_steps=0, weight_decay=0.5, learning_rate=0.1)
    constraint = Sparse(share=0.34, choose=choose)
    norms = [push(layer, held := Optimizer(layer, settings, constraint), 1)]
    norms.append(push(free, Optimizer(free, settings, AllWeights()), 1))
    assert norms[0] == norms[1], "the norm is the whole gradient's"
    mask = constraint.mask("weight", before)
    assert int(mask.sum()) == 2 and mask.shape == before.shape
    assert torch.equal(layer.weight[~mask], before[~mask]), "weight decay does not reach them either"
    assert torch.equal(layer.weight[mask], free.weight[mask]), "the others move as if all did"
    assert not torch.equal(layer.weight[mask], before[mask])
    again = Optimizer(layer, settings, constraint)
    again.load(held.state())
    push(layer, again, 2)
    assert torch.equal(layer.weight[~mask], before[~mask]), "the mask is that of the first weights, not of today's"


def test_a_sparse_mask_is_what_it_says() -> None:
    weight = torch.tensor([[4.0, -1.0, 0.5], [-9.0, 2.0, 0.1]])
    assert Sparse(share=0.4, choose="largest").mask("w", weight).tolist() == [
        [True, False, False],
        [True, False, False],
    ]
    assert Sparse(share=0.4, choose="smallest").mask("w", weight).tolist() == [
        [False, False, True],
        [False, False, True],
    ]
    drawn = Sparse(share=0.5, choose="random", seed=1).mask("w", weight)
    assert int(drawn.sum()) == 3
    assert torch.equal(drawn, Sparse(share=0.5, choose="random", seed=1).mask("w", 2 * weight)), "of names, not weights"
    assert int(Sparse(share=0.01).mask("w", weight).sum()) == 1, "never nothing"


def test_parameters_are_named_by_pattern() -> None:
    constraint = Named(names=("*.mlp.*", "model.layers.1?.*"))
    assert [constraint.trains(name) for name in ("a.mlp.up", "model.layers.12.attn", "model.layers.2.attn")] == [
        True,
        True,
        False,
    ]
