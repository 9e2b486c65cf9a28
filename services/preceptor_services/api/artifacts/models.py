"""Opens a model's files as data, never as code, and says what a submit needs to know of it.

Checked: `config.json` and `tokenizer.json` can be read, every safetensors file has a header that agrees with its
length, and every file that the index names is there. Not checked: the weights' numbers, and that the architecture is
one that transformers knows; the worker finds that out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from preceptor.errors import Invalid
from preceptor.fingerprint import tokenizer_card
from preceptor.wire.artifacts import ModelFacts

INDEX = "model.safetensors.index.json"
_REMEDY = "Push a folder written by save_pretrained with safe_serialization."


def open_model(files: Mapping[str, Path]) -> ModelFacts:
    """What a model is. `files`: where each lies, by its name in the folder. Raises Invalid, naming the file."""
    card = tokenizer_card(files)
    assert card.fingerprint is not None, "a folder's tokenizer always has one"
    config = _object(files, "config.json")
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise Invalid("config.json: it names no architecture.", field="config.json", remedy=_REMEDY)
    return ModelFacts(
        architecture=architectures[0][:200],
        parameters=_parameters(files),
        fingerprint=card.fingerprint,
        vocab_size=card.vocab_size,
        longest_token=_longest_token(_object(files, "tokenizer.json")),
        chat_template=card.chat_template is not None,
        max_tokens=_positions(config),
        unalignable=card.unalignable,
    )


def _object(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    """A JSON object that `tokenizer_card` has read already, so that it is there and is one."""
    return json.loads(files[name].read_text(encoding="utf-8"))


def _positions(config: Mapping[str, Any]) -> int | None:
    """As the trainer reads it: of a model of several, its text model's."""
    text = config.get("text_config")
    stated = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return stated if type(stated) is int and stated > 0 else None


def _parameters(files: Mapping[str, Path]) -> int:
    weights = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    if INDEX in files:
        _check_index(files[INDEX], weights)
    if not weights:
        raise Invalid("The model has no safetensors file.", field="files", remedy=_REMEDY)
    return sum(_size_of(name, files[name]) for name in weights)


def _check_index(path: Path, weights: list[str]) -> None:
    try:
        named = {str(name) for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Invalid(f"{INDEX}: it cannot be read ({error}).", field=INDEX, remedy=_REMEDY) from error
    if absent := sorted(named - set(weights)):
        raise Invalid(f"{INDEX} names {absent[0]}, which is not here.", field=INDEX, remedy="Push the whole folder.")


def _size_of(name: str, path: Path) -> int:
    try:
        with safe_open(path, framework="numpy") as opened:
            return sum(prod(opened.get_slice(tensor).get_shape()) for tensor in opened.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise Invalid(f"{name}: it is not a safetensors file that can be read ({error}).", field=name) from error


def _longest_token(tokenizer: Mapping[str, Any]) -> int:
    vocab = tokenizer["model"]["vocab"]
    # A unigram model's vocabulary is a list of pairs of token and score.
    tokens = [str(entry[0]) if isinstance(entry, list) and entry else str(entry) for entry in vocab]
    tokens += [str(token.get("content", "")) for token in tokenizer.get("added_tokens") or []]
    return max((len(token) for token in tokens), default=1)
