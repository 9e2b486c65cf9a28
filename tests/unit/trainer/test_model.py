"""Model folders are read, described, and refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from preceptor.errors import Invalid
from preceptor_trainer.model import Model, UnreadableModel, eos_ids, head_of, load_model, prompt_ids
from preceptor_trainer.scoring import final_hidden
from tests.models import SPECIAL, tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


def test_a_conversation_becomes_ids_through_the_models_template(model: Model) -> None:
    ids = prompt_ids(model, [{"role": "user", "content": "1 + 1?"}])
    assert model.tokenizer.decode(ids) == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"


def test_the_end_is_known(model: Model) -> None:
    assert eos_ids(model) == {SPECIAL.index("<|im_end|>")}


def test_hidden_states_times_head_are_the_logits(model: Model) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    ones = torch.ones_like(ids)
    with torch.no_grad():
        hidden = final_hidden(model.module, ids, ones, torch.arange(4)[None])
        weight, bias = head_of(model.module)
        torch.testing.assert_close(torch.nn.functional.linear(hidden, weight, bias), model.module(ids).logits)


def test_hidden_states_carry_gradient(model: Model) -> None:
    ids = torch.tensor([[5, 6]])
    assert final_hidden(model.module, ids, torch.ones_like(ids), torch.arange(2)[None]).requires_grad


def test_dtypes(folder: Path) -> None:
    assert load_model(folder, dtype="bfloat16").module.dtype == torch.bfloat16
    with pytest.raises(Invalid, match="float32, bfloat16"):
        load_model(folder, dtype="int8")


def test_no_template_is_said(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(Invalid, match="no chat template"):
        prompt_ids(load_model(tmp_path), [{"role": "user", "content": "?"}])


def test_a_template_that_refuses_is_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(Invalid, match="no system role"):
        prompt_ids(model, [{"role": "system", "content": "?"}])


def edited(folder: Path, target: Path, **config: object) -> Path:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    parsed = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**parsed, **config}))
    return target


def test_soft_capped_logits_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match=r"final_logit_softcapping = 30\.0"):
        load_model(edited(folder, tmp_path, final_logit_softcapping=30.0))


def test_scaled_logits_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match=r"logit_scale = 0\.5"):
        load_model(edited(folder, tmp_path, logit_scale=0.5))


def test_code_from_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="auto_map"):
        load_model(edited(folder, tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"}))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("broken", [False, True])
def test_an_unreadable_folder_is_refused(folder: Path, tmp_path: Path, name: str, broken: bool) -> None:
    edited(folder, tmp_path)
    (tmp_path / name).unlink()
    if broken:
        (tmp_path / name).write_text("{")
    with pytest.raises(UnreadableModel) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value) and caught.value.problem.remedy


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="no such folder"):
        load_model(tmp_path / "nowhere")
