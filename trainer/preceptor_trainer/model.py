"""A model folder in memory: weights, tokenizer, head. Local files only, safetensors only, no code from the folder.

Everything here holds for a model whose logits are `hidden @ head.weight.T + head.bias`, and refuses any other by name:
what scores are worth depends on it. Shape letters: B rows, S positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from preceptor.errors import Invalid
from preceptor.fingerprint import tokenizer_card
from preceptor.wire.teachers import TokenizerCard
from preceptor_trainer.views import Message

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a model can be computed in."""

_OTHER_LOGITS = {
    "final_logit_softcapping": "its logits are soft-capped",
    "logit_scale": "its logits are scaled",
    "logits_scaling": "its logits are scaled",
    "lm_head_multiplier": "its logits are scaled",
    "output_multiplier_scale": "its logits are scaled",
}
"""Config fields that say that logits are more than hidden @ head."""


class UnreadableModel(Invalid):
    """A folder does not hold a model that can be used here."""

    slug, title = "unreadable-model", "Unreadable model"


class Head(NamedTuple):
    """An output projection: the module's own, or a teacher's."""

    weight_VD: Tensor
    bias_V: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded model."""

    module: PreTrainedModel
    tokenizer: Any
    """A fast transformers tokenizer."""
    card: TokenizerCard
    """What identifies the tokenizer."""
    folder: Path

    @property
    def config(self) -> Any:
        """The module's transformers config."""
        return self.module.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def max_tokens(self) -> int:
        """Longest sequence that the positions were made for."""
        return int(getattr(_text_config(self.module), "max_position_embeddings", 2**31 - 1))


def load_model(folder: str | Path, device: str = "cpu", dtype: str = "float32") -> Model:
    """Read a transformers model folder, in evaluation mode.

    Raises UnreadableModel (what is missing or broken, and what to do) and Invalid (`dtype`).
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise Invalid(f"dtype: '{dtype}' is not one of {', '.join(DTYPES)}.", field="dtype")
    _check_files(folder)
    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[dtype], local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    except Exception as error:  # transformers raises whatever the file at fault made it stumble over
        raise UnreadableModel(
            f"{folder}: transformers cannot read this model ({_one_line(error)}).",
            field="model",
            remedy="Check that the folder is complete and loads with AutoModelForCausalLM.",
        ) from error
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    module = cast("PreTrainedModel", module.eval())
    cast("nn.Module", module).to(device)
    head_of(module)
    return Model(module, tokenizer, tokenizer_card(folder), folder)


def prompt_ids(model: Model, messages: Sequence[Message], room: int = 0) -> list[int]:
    """The ids of a conversation through the model's own chat template, up to where the assistant starts to write.

    room: tokens that are to follow.
    Raises Invalid where there is no template, the template refuses the messages, or the model's positions end before
    what follows does: a rotary model would answer there too, and make no sense.
    """
    ids = chat_ids(model.tokenizer, messages, f"the model in {model.folder}")
    if len(ids) + room > model.max_tokens:
        asked = " ".join(messages[-1]["content"].split())[:60]
        raise Invalid(
            f"A prompt of {len(ids)} tokens ('{asked}...') and a completion of up to {room} do not fit the student, "
            f"whose positions end at {model.max_tokens}.",
            field="data",
            remedy="Start the run on data without such rows, or with a lower overrides.rollout.max_tokens.",
        )
    return ids


def chat_ids(tokenizer: Any, messages: Sequence[Message], whose: str) -> list[int]:
    """The same for a transformers tokenizer; `whose` it is stands in the errors."""
    if not getattr(tokenizer, "chat_template", None):
        raise Invalid(
            f"messages: {whose} has no chat template.",
            field="messages",
            remedy="Add chat_template.jinja to its folder, or use an instruction-tuned model.",
        )
    try:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except (TemplateError, TypeError, KeyError) as error:
        raise Invalid(f"messages: the chat template refuses them ({_one_line(error)}).", field="messages") from error
    return [int(token) for token in ids]


def eos_ids(model: Model) -> frozenset[int]:
    """Ids after which the model has finished: the generation config's and the tokenizer's. Never empty by accident:
    a model without any writes until its limit.
    """
    found: set[int] = set()
    for source in (model.module.generation_config, model.tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found |= {int(ids)} if isinstance(ids, int) else {int(token) for token in ids or ()}
    return frozenset(found)


def head_of(module: PreTrainedModel) -> Head:
    """The output projection. Raises UnreadableModel, naming the config field, where logits are not hidden @ head."""
    config = _text_config(module)
    for field, why in _OTHER_LOGITS.items():
        value = getattr(config, field, None)
        if value is not None and value != 1.0:
            raise UnreadableModel(
                f"config.{field} = {value}: {why}, so they are not hidden states times a head.",
                field="model",
                remedy="Use a model whose logits are plain, such as Llama, Qwen or Mistral.",
            )
    head: Any = module.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UnreadableModel(f"{type(module).__name__} has no linear output projection.", field="model")
    return Head(head.weight, head.bias)


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise UnreadableModel(
            f"{folder}: there is no such folder.", field="model", remedy="Give a model folder's path."
        )
    names = {path.name for path in folder.iterdir()}
    missing = [name for name in ("config.json", "tokenizer.json") if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors")
    if missing:
        raise UnreadableModel(
            f"{folder}: has no {', '.join(missing)}.",
            field="model",
            remedy="Give a folder written by save_pretrained, with safetensors weights and a fast tokenizer.",
        )
    config: Any = None
    with suppress(ValueError, OSError):  # transformers says what is wrong with it
        config = json.loads((folder / "config.json").read_text())
    if isinstance(config, dict) and "auto_map" in config:
        raise UnreadableModel(
            f"{folder}: its config asks to run code that came with it (auto_map).",
            field="model",
            remedy="Use an architecture that transformers has itself.",
        )


def _text_config(module: PreTrainedModel) -> Any:
    return module.config.get_text_config()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
