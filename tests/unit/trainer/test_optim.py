"""AdamW with warm-up and clipping, and a state that goes on where it stopped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from preceptor.wire.runs import Training
from preceptor_trainer.optim import NonFiniteGradient, Optimizer
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
