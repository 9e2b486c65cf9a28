"""What identifies a tokenizer, from a model folder's files alone: neither transformers nor torch is needed.

The same function describes a student's artifact when it is submitted and a teacher on its card, so that equal
fingerprints mean: both turn every text into the same ids.

Covered: vocabulary, merges, every field of the model that changes the split, normaliser, pre-tokeniser, added tokens
with their flags. Not covered, since ids travel and text does not: decoder, post-processor, truncation, padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from preceptor.errors import Invalid
from preceptor.token_bytes import unalignable
from preceptor.wire.teachers import TokenizerCard
from preceptor.wire.tokenizers import TokenizerFile

Files = Path | Mapping[str, Path]
"""A model's files: its folder, or where each file lies, by the name it has in the folder."""

_ADDED = ("id", "content", "special", "single_word", "lstrip", "rstrip", "normalized")
_ROLES = ("bos", "eos", "pad", "unk")


def tokenizer_card(files: Files) -> TokenizerCard:
    """What a card says of a model's tokenizer. Raises Invalid, naming the file, when one is missing or unreadable."""
    tokenizer = _json(files, "tokenizer.json")
    config = _json(files, "tokenizer_config.json", {})
    return TokenizerCard(
        fingerprint=_fingerprint(tokenizer),
        vocab_size=_vocab_size(_json(files, "config.json")),
        special=_special(tokenizer, config),
        chat_template=_chat_template_hash(files, config),
        unalignable=unalignable(tokenizer),
    )


def tokenizer_file(files: Files) -> TokenizerFile:
    """What another needs to write text in this tokenizer's ids. Raises Invalid as `tokenizer_card` does."""
    tokenizer = _json(files, "tokenizer.json")
    config = _json(files, "tokenizer_config.json", {})
    texts = {f"{role}_token": _text_of(config.get(f"{role}_token")) for role in _ROLES}
    return TokenizerFile(
        tokenizer=tokenizer,
        chat_template=_default_template(_chat_template(files, config)),
        special={name: text for name, text in texts.items() if text is not None},
    )


def fingerprint_of(file: TokenizerFile) -> str:
    """The fingerprint that a card of this tokenizer states. Raises Invalid where it is none."""
    return _fingerprint(file.tokenizer)


def tokenizer_fingerprint(files: Files) -> str:
    """Hash of all that decides which ids a text becomes. Raises Invalid where tokenizer.json cannot be read."""
    return _fingerprint(_json(files, "tokenizer.json"))


def _fingerprint(tokenizer: dict[str, Any]) -> str:
    model = _object(tokenizer, "model")
    known = {
        "vocab": _vocab(model),
        "merges": [_pair(merge) for merge in cast("list[Any]", model.get("merges") or [])],
        # Fields that are off are left out: older files do not have them.
        "model": {name: value for name, value in model.items() if name not in ("vocab", "merges") and value},
        "normalizer": tokenizer.get("normalizer"),
        "pre_tokenizer": tokenizer.get("pre_tokenizer"),
        "added": sorted(
            ({name: token.get(name) for name in _ADDED} for token in _added(tokenizer)),
            key=lambda token: json.dumps(token, sort_keys=True),
        ),
    }
    return _hash(json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=True))


def _vocab(model: dict[str, Any]) -> list[Any]:
    """Pairs of token and id, whatever their order in the file; for a unigram model, its list as it is."""
    vocab: Any = model.get("vocab")
    if isinstance(vocab, dict):
        return sorted(cast("dict[str, Any]", vocab).items(), key=lambda item: (str(item[1]), item[0]))
    if isinstance(vocab, list):
        return cast("list[Any]", vocab)
    raise Invalid("tokenizer.json: its model has no vocabulary.", field="tokenizer.json")


def _pair(merge: Any) -> list[str]:
    """A merge, which older files write as one string with a space."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _special(tokenizer: dict[str, Any], config: dict[str, Any]) -> dict[str, int]:
    vocab: Any = _object(tokenizer, "model").get("vocab")
    ids: dict[str, Any] = dict(cast("dict[str, Any]", vocab)) if isinstance(vocab, dict) else {}
    if isinstance(vocab, list):  # a unigram model: pairs of token and score, the id is the place
        ids = {str(entry[0]): index for index, entry in enumerate(cast("list[list[Any]]", vocab)) if entry}
    ids |= {str(token.get("content")): token.get("id") for token in _added(tokenizer)}
    found: dict[str, int] = {}
    for role in _ROLES:
        text = _text_of(config.get(f"{role}_token"))
        identifier = None if text is None else ids.get(text)
        if isinstance(identifier, int):
            found[role] = identifier
    return found


def _text_of(token: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: a string, or an object that holds one."""
    text: Any = cast("dict[str, Any]", token).get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _chat_template_hash(files: Files, config: dict[str, Any]) -> str | None:
    template = _chat_template(files, config)
    if template is None:
        return None
    return _hash(template if isinstance(template, str) else json.dumps(template, sort_keys=True))


def _chat_template(files: Files, config: dict[str, Any]) -> Any:
    """A string, or a list of named ones; None: there is none."""
    path = _find(files, "chat_template.jinja")
    if path is not None:
        return _text(path, "chat_template.jinja")
    template: Any = config.get("chat_template")
    if template is None and _find(files, "chat_template.json") is not None:
        template = _json(files, "chat_template.json").get("chat_template")
    return template


def _default_template(template: Any) -> str | None:
    if isinstance(template, list):
        named = {str(each.get("name")): each.get("template") for each in cast("list[dict[str, Any]]", template)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _vocab_size(config: dict[str, Any]) -> int:
    text: Any = config.get("text_config")
    size: Any = config.get(
        "vocab_size", cast("dict[str, Any]", text).get("vocab_size") if isinstance(text, dict) else 0
    )
    if not isinstance(size, int) or size < 1:
        raise Invalid("config.json: has no vocab_size.", field="config.json")
    return size


def _added(tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    tokens: Any = tokenizer.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in cast("list[Any]", tokens)):
        raise Invalid("tokenizer.json: added_tokens is not a list of objects.", field="tokenizer.json")
    return cast("list[dict[str, Any]]", tokens)


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value: Any = parent.get(name)
    if not isinstance(value, dict):
        raise Invalid(f"tokenizer.json: has no '{name}' object.", field="tokenizer.json")
    return cast("dict[str, Any]", value)


def _json(files: Files, name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    path = _find(files, name)
    if path is None:
        if default is not None:
            return default
        raise Invalid(
            f"The model has no {name}.",
            field=name,
            remedy="Give a folder written by save_pretrained, with the tokenizer in its fast form (tokenizer.json).",
        )
    try:
        parsed: Any = json.loads(_text(path, name))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{name}: is not JSON that can be read ({error}).", field=name) from error
    if not isinstance(parsed, dict):
        raise Invalid(f"{name}: is not a JSON object.", field=name)
    return cast("dict[str, Any]", parsed)


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{name}: cannot be read ({error}).", field=name) from error


def _find(files: Files, name: str) -> Path | None:
    path = files / name if isinstance(files, Path) else files.get(name)
    return path if path is not None and path.is_file() else None


def _hash(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
