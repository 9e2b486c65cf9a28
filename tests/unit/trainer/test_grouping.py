"""Prompts once in training: loss and gradient against every row on its own, padded, by one plain forward."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from preceptor_trainer import grouping
from preceptor_trainer.batch import Row
from preceptor_trainer.grouping import cuts, hidden_states, why_padded
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.views import Message, Task
from tests.models import tiny_model_folder

LENGTHS = ((12, (5, 1, 9)), (30, (7,)), (3, (0, 4)), (12, (2, 2, 2, 2)), (1, (6, 1)))
"""Groups: tokens of the prompt, and of each of its completions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def rows_of(lengths: tuple[tuple[int, tuple[int, ...]], ...] = LENGTHS, seed: int = 0) -> list[Row]:
    rng = Random(seed)
    rows: list[Row] = []
    for number, (prompt, completions) in enumerate(lengths):
        ids = tuple(rng.randrange(4, 64) for _ in range(prompt))
        task = Task(id=f"task-{number}", messages=(Message(role="user", content="?"),))
        for index, length in enumerate(completions):
            written = tuple(rng.randrange(4, 64) for _ in range(length))
            rows.append(
                Row(task=task, index=index, prompt_ids=ids, completion_ids=written, logprobs=(0.0,) * length, text="")
            )
    return rows


def model_of(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Model:
    model = load_model(folder)
    model.module.set_attn_implementation(attention)
    model.module.to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    return model


def direction(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """A fixed [T, D] to multiply hidden states with, so that a loss depends on every number of theirs."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def alone(model: Model, rows: list[Row]) -> torch.Tensor:
    """[T, D] by one forward a row, nothing padded, nothing packed."""
    parts = [
        model.module.base_model(torch.tensor([[*row.prompt_ids, *row.completion_ids]])).last_hidden_state[
            0, len(row.prompt_ids) - 1 : len(row.prompt_ids) + len(row.completion_ids) - 1
        ]
        for row in rows
    ]
    return torch.cat(parts)


def gradient(model: Model, hidden_TD: torch.Tensor) -> tuple[float, torch.Tensor]:
    model.module.zero_grad()
    loss = (hidden_TD * direction(hidden_TD.shape, hidden_TD.dtype)).sum()
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers normalises in float32 whatever the weights are: float64 shall mean float64 here."""

    def forward(self: Qwen3RMSNorm, hidden_states: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * hidden_states * scale

    monkeypatch.setattr(Qwen3RMSNorm, "forward", forward)


@pytest.mark.parametrize("budget", [1, 40, 100, 10**6])
@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"),
    [("sdpa", torch.float64, 1e-10), ("sdpa", torch.float32, 2e-5), ("eager", torch.float32, 2e-5)],
)
@pytest.mark.usefixtures("precise")
def test_loss_and_gradient_are_those_of_every_row_alone(
    folder: Path, attention: str, budget: int, dtype: torch.dtype, tolerance: float
) -> None:
    model, rows = model_of(folder, dtype, attention), rows_of()
    expected_TD = alone(model, rows)
    loss, grad = gradient(model, expected_TD)
    made = cuts(rows, model.module, budget)
    assert [index for cut in made for index in cut.rows] == list(range(len(rows)))
    packed_TD = torch.cat([hidden_states(model.module, cut) for cut in made])
    torch.testing.assert_close(packed_TD, expected_TD, atol=tolerance, rtol=0)
    packed_loss, packed = gradient(model, packed_TD)
    assert packed_loss == pytest.approx(loss, abs=tolerance * 100)
    scale = float(grad.abs().max())
    torch.testing.assert_close(packed / scale, grad / scale, atol=tolerance, rtol=0)


def test_a_prompt_stands_once_and_lines_are_filled(folder: Path) -> None:
    model = model_of(folder, torch.float32)
    (cut,) = cuts(rows_of(((40, (5, 5, 5, 5)), (10, (6,)), (12, (9, 9)))), model.module, 10**6)
    assert [[len(group) for group in line] for line in cut.lines] == [[56], [15, 28]]
    assert cut.tokens == 2 * 56
    assert not cut.causal


def test_passes_keep_to_the_budget(folder: Path) -> None:
    model = model_of(folder, torch.float32)
    made = cuts(rows_of(((9, (4, 4)),) * 12), model.module, 64)
    assert all(cut.tokens <= 64 for cut in made) and len(made) == 3
    (one, *_) = cuts(rows_of(((50, (20,)), (50, (20,)))), model.module, 64)
    assert len(one.lines) == 1, "what is longer than the budget stands alone"


def test_a_mask_keeps_to_its_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(folder, torch.float32)
    monkeypatch.setattr(grouping, "MASK_ELEMENTS", 900)
    made = cuts(rows_of(((10, (6,) * 9),)), model.module, 10**6)
    assert all(len(cut.lines) * cut.width**2 <= 900 for cut in made)


def test_a_model_whose_layers_do_not_see_everything_is_padded(tmp_path: Path) -> None:
    window = tiny_model_folder(tmp_path / "model", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    model = model_of(window, torch.float64)
    assert why_padded(model.module) == "not all its layers look at everything before"
    rows = rows_of()
    made = cuts(rows, model.module, 200)
    assert all(cut.causal for cut in made)
    padded_TD = torch.cat([hidden_states(model.module, cut) for cut in made])
    torch.testing.assert_close(padded_TD, alone(model, rows), atol=1e-6, rtol=0)


def test_an_attention_that_takes_no_mask_of_ours_is_named(folder: Path) -> None:
    model = model_of(folder, torch.float32)
    assert why_padded(model.module) is None
    model.config._attn_implementation_internal = "flash_attention_2"
    assert (
        why_padded(model.module)
        == "its attention implementation, flash_attention_2, takes no mask of our own: load it with sdpa or eager"
    )
    assert all(cut.causal for cut in cuts(rows_of(), model.module, 10**6))
