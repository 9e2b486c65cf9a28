"""Some tokens of a tokenizer as text, with their ids: what a server that cannot state its tokenizer is asked about.

Chosen so that every decoder writes them alike: letters and digits only, spread over all ids, and the special tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from preceptor.errors import Invalid

ORDINARY, SPECIAL = 48, 16
"""How many of each kind."""


def token_samples(folder: Path) -> dict[str, int]:
    """Tokens and ids from a model folder's tokenizer.json. Raises Invalid where it cannot be read."""
    try:
        parsed: Any = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"tokenizer.json: cannot be read ({error}).", field="tokenizer.json") from error
    model: Any = cast("dict[str, Any]", parsed).get("model") if isinstance(parsed, dict) else None
    if not isinstance(model, dict):
        raise Invalid("tokenizer.json: has no 'model' object.", field="tokenizer.json")
    ordinary = sorted(
        (id, text) for text, id in _pairs(cast("dict[str, Any]", model)) if text.isascii() and text.isalnum()
    )
    added: Any = cast("dict[str, Any]", parsed).get("added_tokens") or []
    special = [
        (int(token["id"]), str(token["content"]))
        for token in cast("list[dict[str, Any]]", added)
        if token.get("special") and token.get("content")
    ]
    return {text: id for id, text in [*_spread(ordinary, ORDINARY), *_spread(sorted(special), SPECIAL)]}


def _pairs(model: dict[str, Any]) -> list[tuple[str, int]]:
    vocab: Any = model.get("vocab")
    if isinstance(vocab, dict):
        return [(text, id) for text, id in cast("dict[str, Any]", vocab).items() if isinstance(id, int)]
    if isinstance(vocab, list):  # a unigram model: pairs of token and score, the id is the place
        return [(str(entry[0]), id) for id, entry in enumerate(cast("list[list[Any]]", vocab)) if entry]
    return []


def _spread(pairs: list[tuple[int, str]], count: int) -> list[tuple[int, str]]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(pairs) <= count:
        return pairs
    return [pairs[index * (len(pairs) - 1) // (count - 1)] for index in range(count)]
