"""How a transformers module in memory gets other weights: made ready beside the old ones, exchanged tensor by tensor.

Not copied into the old ones: those stay as they are until the exchange, so that nothing can fail in the middle of it.
The price is memory for two versions while one is made ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor
from torch import nn
from transformers import PreTrainedModel

from preceptor.errors import Invalid
from preceptor.tensorfiles import Source, open_folder
from preceptor.tensors import Tensor
from preceptor_services.teacher.backends import Layout
from preceptor_services.teacher.lora import Merged


def layout_of(module: PreTrainedModel, folder: Path) -> Layout:
    """What weights the module takes. Raises Invalid where it keeps them under other names than its files."""
    files = open_folder(folder)
    names: dict[int, list[str]] = {}
    tensors = named(module)
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    shapes: dict[str, tuple[int, ...]] = {}
    tied: dict[str, str] = {}
    for group in names.values():
        name = next((each for each in group if each in files), group[0])
        stored = files.get(name)
        if stored is None or stored.shape != tuple(tensors[name].shape) or not tensors[name].is_floating_point():
            raise _cannot(folder, name)
        shapes[name] = stored.shape
        tied |= {other: name for other in group if other != name}
    if unknown := sorted(files.keys() - tensors.keys()):
        raise _cannot(folder, unknown[0])
    output: Any = module.get_output_embeddings()
    of_head = {id(each) for each in (output.weight, output.bias) if each is not None}
    head = frozenset(name for name in shapes if id(tensors[name]) in of_head)
    return Layout(folder=folder, shapes=shapes, tied=tied, head=head)


def named(module: nn.Module) -> dict[str, TorchTensor]:
    """Every tensor that is kept in a file, under each of its names."""
    return module.state_dict(keep_vars=True)


def made_ready(module: nn.Module, sources: Mapping[str, Source], changed: Iterable[str]) -> dict[str, TorchTensor]:
    """The changed tensors, as the module keeps them. Raises Invalid for an adapter of no linear layer."""
    tensors = named(module)
    fresh: dict[str, TorchTensor] = {}
    for name in sorted(changed):
        source, old = sources[name], tensors[name]
        if isinstance(source, Merged):
            _check_linear(module, name)
        fresh[name] = to_torch(source.tensor()).to(device=old.device, dtype=old.dtype)
    return fresh


def to_torch(tensor: Tensor) -> TorchTensor:
    """A float array as a tensor of its own."""
    array = np.array(tensor.array)  # a copy: what it came from may be a file that goes
    if tensor.dtype == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _check_linear(module: nn.Module, name: str) -> None:
    layer = module.get_submodule(name.removesuffix(".weight"))
    if not isinstance(layer, nn.Linear):
        raise Invalid(
            f"weights: the adapter is for '{name}', which is a {type(layer).__name__} and no linear layer.",
            field="weights",
            remedy="Merge the adapter into its base model, and send full weights.",
        )


def _cannot(folder: Path, name: str) -> Invalid:
    return Invalid(
        f"model: '{name}' of {folder.name} is not kept in memory as in its files: no other weights can be loaded.",
        field="model",
        remedy="Serve it without --takes-weights, or through an engine (--backend vllm).",
    )
