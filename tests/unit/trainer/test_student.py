"""The student as a run trains it: adapters over shared weights, autocast, layers that are computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.errors import Invalid
from preceptor.wire.training import LoRA, Training
from preceptor_trainer.lora import adapt, adapter_state, merged_state, put_adapter, save_adapter
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.sampler import Job, LocalSampler
from preceptor_trainer.scoring import final_hidden
from preceptor_trainer.student import open_student, put_weights
from tests.models import tiny_model_folder

IDS = torch.tensor([[5, 9, 17, 33, 8, 40]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("student"))


def training(**settings: Any) -> Training:
    return Training.model_validate({"lora": LoRA(rank=4, alpha=8), **settings})


def hidden(model: Model) -> torch.Tensor:
    return final_hidden(model.module, IDS, torch.ones_like(IDS), torch.arange(IDS.shape[1])[None])


def stirred(model: Model) -> Model:
    """The same model with adapters that change something."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in adapter_state(model).values():
            each.add_(0.1 * torch.randn(each.shape, generator=generator))
    return model


def test_fresh_adapters_change_nothing_and_are_drawn_by_the_seed(folder: Path) -> None:
    first, same, other = (open_student(folder, training(seed=seed)).model for seed in (0, 0, 1))
    assert torch.equal(hidden(first), hidden(load_model(folder)))
    one, two, three = (torch.cat([each.flatten() for each in adapter_state(m).values()]) for m in (first, same, other))
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_the_base_is_the_student_s_own_memory_and_stays_when_the_student_moves(folder: Path) -> None:
    student = open_student(folder, training())
    assert student.base is not None
    own = {each.data_ptr() for each in student.model.module.parameters()}
    assert all(each.data_ptr() in own for each in student.base.module.parameters()), "not one weight is held twice"
    before = hidden(student.base)
    stirred(student.model)
    assert torch.equal(hidden(student.base), before)
    assert not torch.equal(hidden(student.model), before)


def test_only_what_is_named_has_an_adapter(folder: Path) -> None:
    student = open_student(folder, training(lora=LoRA(rank=2, targets=("q_proj", "v_proj"))))
    names = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter_state(student.model)}
    assert names == {"q_proj", "v_proj"}


def test_merged_weights_compute_what_the_adapters_do(folder: Path) -> None:
    student = stirred(open_student(folder, training()).model)
    plain = load_model(folder)
    plain.module.load_state_dict(merged_state(student))
    torch.testing.assert_close(hidden(plain), hidden(student), atol=1e-5, rtol=0)


def test_an_adapter_folder_survives_the_disk_and_fits_one_student_only(folder: Path, tmp_path: Path) -> None:
    student = stirred(open_student(folder, training()).model)
    save_adapter(student, tmp_path / "adapter", "sha256:" + "0" * 64)
    plain = load_model(folder)
    adapt(plain, tmp_path / "adapter")
    assert torch.equal(hidden(plain), hidden(student))
    again = open_student(folder, training()).model
    put_weights(again, training(), tmp_path / "adapter")
    assert torch.equal(hidden(again), hidden(student))
    wider = open_student(folder, training(lora=LoRA(rank=8))).model
    with pytest.raises(Invalid, match="of other layers, or of another rank"):
        put_adapter(wider, adapter_state(student), "it")
    with pytest.raises(Invalid, match="is not an adapter folder"):
        adapt(load_model(folder), folder)


def test_layers_computed_twice_give_the_same_gradient(folder: Path) -> None:
    grads: list[list[torch.Tensor]] = []
    for twice in (False, True):
        student = stirred(open_student(folder, training(gradient_checkpointing=twice)).model)
        for each in adapter_state(student).values():
            each.requires_grad_()
        hidden(student).square().sum().backward()
        grads.append([each.grad for each in student.module.parameters() if each.grad is not None])
    assert grads[0] and all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


def test_layers_are_computed_twice_only_where_there_is_a_gradient(folder: Path) -> None:
    student = open_student(folder, training(gradient_checkpointing=True)).model
    calls: list[bool] = []
    base: Any = student.module.base_model
    base.layers[0].self_attn.register_forward_hook(lambda *args: calls.append(torch.is_grad_enabled()))
    hidden(student).sum().backward()
    assert len(calls) == 2
    calls.clear()
    with torch.no_grad():
        hidden(student)
    assert len(calls) == 1
    job = Job(prompt_ids=(5, 9, 17), seed=1, max_tokens=6)
    assert LocalSampler(student).sample([job], 1.0) == LocalSampler(load_model(folder)).sample([job], 1.0)


def test_bf16_computes_layers_narrowly_and_hands_on_float32(folder: Path) -> None:
    plain, narrow = load_model(folder), open_student(folder, training(lora=None, precision="bf16")).model
    assert all(each.dtype is torch.float32 for each in narrow.module.parameters())
    with torch.no_grad():
        wide, less = hidden(plain), hidden(narrow)
    assert less.dtype is torch.float32 and not torch.equal(wide, less)
    # A tiny model with large weights: two digits of bf16 through two layers.
    torch.testing.assert_close(less, wide, atol=0.15, rtol=0)
    hidden(narrow).square().sum().backward()
    assert all(each.grad is not None and each.grad.dtype is torch.float32 for each in narrow.module.parameters())


def test_dropout_is_there_only_where_a_gradient_is_taken_and_by_the_seed(folder: Path) -> None:
    student = stirred(open_student(folder, training(lora=LoRA(rank=4, dropout=0.5))).model)
    with torch.no_grad():
        still = [hidden(student) for _ in range(2)]
    assert torch.equal(*still)
    drawn: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(hidden(student).detach())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], still[0])
