"""Low-rank adapters on a student: added, written, read, merged. The base weights are never changed.

peft does the adapting and is imported only where a run asks for it. Its file formats are kept: a folder with
`adapter_config.json` and `adapter_model.safetensors` that peft, transformers and vLLM read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.errors import Invalid
from preceptor.wire.training import LoRA
from preceptor_trainer.model import Model
from preceptor_trainer.writer import stream

NAME = "default"
"""What peft calls a model's only adapter."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What peft puts before a parameter's name in its files."""


def add_adapter(model: Model, settings: LoRA, seed: int) -> None:
    """Put fresh adapters on the model: they change nothing yet. Raises Invalid where no layer has a target's name."""
    from peft import LoraConfig

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  peft only ever divides it
        lora_dropout=settings.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "lora"))
        _inject(model, config)


def _inject(model: Model, config: Any) -> None:
    try:
        model.module.add_adapter(config)
    except ValueError as error:
        raise Invalid(
            f"training.lora.targets: {str(error).split('. ')[0]}.",
            field="training.lora.targets",
            remedy="Name linear layers of this student, or leave it at 'all-linear'.",
        ) from error
    model.module.eval()


def bare(model: Model) -> Model:
    """The same model a second time: other modules around the very same weights.

    Called before adapters are added, it stays without them, and may run while the other is trained.
    """
    held = {id(each): each for each in (*model.module.parameters(), *model.module.buffers())}
    return replace(model, module=deepcopy(model.module, held))


def adapted(model: Model) -> bool:
    """Whether the model has adapters."""
    return bool(getattr(model.module, "_hf_peft_config_loaded", False))


def adapter_state(model: Model) -> dict[str, Tensor]:
    """The adapters' weights under peft's names, sharing the model's memory."""
    from peft import get_peft_model_state_dict

    return {name: each.detach() for name, each in get_peft_model_state_dict(model.module).items()}


def save_adapter(model: Model, folder: Path, base: str) -> None:
    """Write an adapter folder; `base` says what it is an adapter of."""
    folder.mkdir(parents=True)
    state = adapter_state(model)
    named = {_PREFIX + name.removeprefix(_PREFIX): each.contiguous() for name, each in state.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    config: Any = model.module.peft_config[NAME]
    settings = {key: _plain(value) for key, value in config.to_dict().items()} | {
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=1, sort_keys=True))


def load_adapter(model: Model, folder: Path) -> None:
    """Put an adapter folder's weights on the model's adapters.

    Raises OSError and ValueError, and Invalid where they are of other layers or of another rank.
    """
    put_adapter(model, load_file(folder / WEIGHTS), str(folder))


def put_adapter(model: Model, weights: Mapping[str, Tensor], whose: str) -> None:
    """Copy weights under peft's names onto the model's adapters."""
    mine = adapter_state(model)
    named = {name.removeprefix(_PREFIX): each for name, each in weights.items()}
    held = {name.removeprefix(_PREFIX): each for name, each in mine.items()}
    if {name: each.shape for name, each in named.items()} != {name: each.shape for name, each in held.items()}:
        raise Invalid(
            f"{whose}: its adapters are of other layers, or of another rank, than this student's.",
            field="training.lora",
            remedy="Resume with the settings that it was written with.",
        )
    for name, each in held.items():
        each.copy_(named[name])


def merged_state(model: Model) -> dict[str, Tensor]:
    """All weights with the adapters added to them, under the base model's own names."""
    from peft.tuners.lora import LoraLayer

    state: dict[str, Tensor] = {}
    for name, each in model.module.state_dict().items():
        if ".lora_" not in name:
            state[name.replace(".base_layer.", ".")] = each
    layers: dict[str, Any] = {name: each for name, each in model.module.named_modules() if isinstance(each, LoraLayer)}
    for name, layer in layers.items():
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight + layer.get_delta_weight(NAME).detach()
    return state


def adapt(model: Model, folder: Path) -> None:
    """Put the adapter of a folder on a plain model. Raises Invalid where it is none, or not of this model."""
    from peft import PeftConfig

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise Invalid(f"{folder}: is not an adapter folder; it lacks {CONFIG} or {WEIGHTS}.", field="adapter")
    _inject(model, PeftConfig.from_pretrained(str(folder)))
    load_adapter(model, folder)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", value)
