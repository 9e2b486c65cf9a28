"""What bytes a tokenizer's tokens stand for, from its tokenizer.json alone.

Three ways of writing bytes into a vocabulary are known: byte-level (GPT-2, Llama 3, Qwen: every byte has a printable
character), metaspace (SentencePiece: U+2581 is a space, `<0x0A>` a byte), and plain characters. A tokenizer that loses
or changes bytes on the way (lower-casing, NFKC, splitting at spaces and dropping them, WordPiece) is refused by the
name of what does it: its tokens say nothing about the text that was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from preceptor.errors import Invalid

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MODELS = frozenset({"BPE", "Unigram", "WordLevel"})
_KEEPING = frozenset({"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "UnicodeScripts"})
"""Pre-tokenisers that only say where to cut."""
_JOINING = frozenset({"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip"})
"""Decoders of tokenizers whose text is their tokens, one after the other."""


class Unalignable(Invalid):
    """A tokenizer whose tokens are not the bytes of the text."""

    slug, title = "unalignable", "Tokens are not bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBytes:
    """A tokenizer's vocabulary as bytes."""

    pieces: tuple[bytes | None, ...]
    """By id. None: it stands for no bytes (special, unknown, or an id that is not in the vocabulary)."""
    special: Mapping[str, int]
    """Ids of the special tokens by name, the unknown token left out."""
    leading_space: bool
    """Whether it puts a space before a text's first word that the text does not have."""

    def of(self, token: int) -> bytes | None:
        """The bytes of an id; None where it has none."""
        return self.pieces[token] if 0 <= token < len(self.pieces) else None


def token_bytes(tokenizer: Mapping[str, Any]) -> TokenBytes:
    """The bytes of every id of a parsed tokenizer.json. Raises Unalignable, naming what loses or changes bytes."""
    if reason := unalignable(tokenizer):
        raise Unalignable(f"tokenizer.json: {reason}.", field="tokenizer.json")
    model = cast("dict[str, Any]", tokenizer["model"])
    byte_level = "ByteLevel" in _types(tokenizer, "pre_tokenizer") or "ByteLevel" in _types(tokenizer, "decoder")
    metaspace = not byte_level and _has_metaspace(tokenizer)
    fallback, unknown = bool(model.get("byte_fallback")), _unknown(model)
    by_id: dict[int, bytes | None] = {}
    for text, identifier in _vocab(model):
        if text == unknown:
            by_id[identifier] = None
        elif fallback and (byte := _BYTE.fullmatch(text)):
            by_id[identifier] = bytes([int(byte[1], 16)])
        elif byte_level:
            by_id[identifier] = _from_byte_level(text)
        else:
            by_id[identifier] = (text.replace(_SPACE, " ") if metaspace else text).encode("utf-8", "replace")
    special: dict[str, int] = {}
    for token in cast("list[dict[str, Any]]", tokenizer.get("added_tokens") or []):
        identifier, text = int(token["id"]), str(token["content"])
        silent = token.get("special") or text == unknown
        by_id[identifier] = None if silent else text.encode("utf-8", "replace")
        if token.get("special") and text != unknown:
            special[text] = identifier
    size = 1 + max(by_id, default=-1)
    pieces = tuple(by_id.get(index) for index in range(size))
    return TokenBytes(pieces=pieces, special=special, leading_space=_leads(tokenizer))


def unalignable(tokenizer: Mapping[str, Any]) -> str | None:
    """Why a tokenizer's tokens are not the bytes of the text, in half a sentence; None: they are."""
    model: Any = tokenizer.get("model")
    model = cast("dict[str, Any]", model) if isinstance(model, dict) else {}
    kind = str(model.get("type") or "BPE")
    if kind not in _MODELS:
        return f"its model is {kind}, whose tokens leave the spaces between words out"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "its tokens mark the ends of words, and leave the spaces between words out"
    for part in _parts(tokenizer, "normalizer"):
        if not _keeps(part):
            return f"its normaliser {_name(part)} changes the bytes of a text"
    for part in _parts(tokenizer, "pre_tokenizer"):
        if part.get("type") not in _KEEPING or part.get("behavior") == "Removed":
            return f"its pre-tokeniser {_name(part)} drops bytes of a text"
    decoders = _types(tokenizer, "decoder")
    if not decoders:
        return "it has no decoder, which puts a space between every two tokens"
    if strange := sorted(decoders - _JOINING):
        return f"its decoder {strange[0]} makes a text that is more than its tokens"
    return None


def continuing(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The same tokenizer.json for a text that goes on from another: no space is put before its first word."""
    result = {**tokenizer, "truncation": None, "padding": None, "post_processor": None}
    result["normalizer"] = _without_prefix(tokenizer.get("normalizer"), "normalizers")
    result["pre_tokenizer"] = _without_prefix(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return result


def _without_prefix(part: Any, inner: str) -> Any:
    if not isinstance(part, dict):
        return part
    part = cast("dict[str, Any]", part)
    if part.get("type") == "Sequence":
        changed = [_without_prefix(each, inner) for each in cast("list[Any]", part.get(inner) or [])]
        return {**part, inner: [each for each in changed if each is not None]}
    if part.get("type") == "Prepend":
        return None
    changes: dict[str, Any] = {}
    if "prepend_scheme" in part or part.get("type") == "Metaspace":
        changes["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        changes["add_prefix_space"] = False
    return {**part, **changes}


def _leads(tokenizer: Mapping[str, Any]) -> bool:
    parts = [*_parts(tokenizer, "normalizer"), *_parts(tokenizer, "pre_tokenizer")]
    return any(_puts_a_space(part) for part in parts)


def _puts_a_space(part: dict[str, Any]) -> bool:
    if part.get("type") == "Metaspace":
        always = part.get("prepend_scheme") or ("always" if part.get("add_prefix_space", True) else "never")
        return always != "never"
    return part.get("type") == "Prepend" or bool(part.get("add_prefix_space"))


def _keeps(part: dict[str, Any]) -> bool:
    """Whether a normaliser leaves the bytes of ordinary text as they are. NFC does: whatever it changes is found out
    when the text is read, and masked.
    """
    kind = part.get("type")
    if kind == "Replace":
        return part.get("content") == _SPACE and _pattern(part) == " "
    return kind == "NFC" or (kind == "Prepend" and part.get("prepend") == _SPACE)


def _has_metaspace(tokenizer: Mapping[str, Any]) -> bool:
    replaces = any(part.get("content") == _SPACE for part in _parts(tokenizer, "normalizer"))
    return replaces or "Metaspace" in _types(tokenizer, "pre_tokenizer") | _types(tokenizer, "decoder")


def _pattern(part: dict[str, Any]) -> Any:
    pattern: Any = part.get("pattern")
    return cast("dict[str, Any]", pattern).get("String") if isinstance(pattern, dict) else None


def _name(part: dict[str, Any]) -> str:
    if part.get("type") == "Replace":
        return f"Replace {_pattern(part) or part.get('pattern')!r}"
    return str(part.get("type"))


def _types(tokenizer: Mapping[str, Any], role: str) -> set[str]:
    return {str(part.get("type")) for part in _parts(tokenizer, role)}


def _parts(tokenizer: Mapping[str, Any], role: str) -> Iterator[dict[str, Any]]:
    """A normaliser, pre-tokeniser or decoder, and where it is a sequence, what it is a sequence of."""
    waiting: list[Any] = [tokenizer.get(role)]
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, dict):
            continue
        part = cast("dict[str, Any]", part)
        inner = next((part[name] for name in ("normalizers", "pretokenizers", "decoders") if name in part), None)
        if part.get("type") == "Sequence" and isinstance(inner, list):
            waiting = [*cast("list[Any]", inner), *waiting]
        else:
            yield part


def _unknown(model: dict[str, Any]) -> str | None:
    if isinstance(model.get("unk_token"), str):
        return model["unk_token"]
    vocab, index = model.get("vocab"), model.get("unk_id")
    if isinstance(vocab, list) and isinstance(index, int) and 0 <= index < len(cast("list[Any]", vocab)):
        return str(cast("list[Any]", vocab)[index][0])
    return None


def _vocab(model: dict[str, Any]) -> Iterator[tuple[str, int]]:
    vocab: Any = model.get("vocab")
    if isinstance(vocab, dict):
        yield from cast("dict[str, int]", vocab).items()
    elif isinstance(vocab, list):  # a unigram model: pairs of token and score, the id is the place
        yield from ((str(entry[0]), index) for index, entry in enumerate(cast("list[list[Any]]", vocab)))


def _from_byte_level(text: str) -> bytes | None:
    table = _byte_level()
    return bytes(table[char] for char in text) if all(char in table for char in text) else None


@cache
def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
