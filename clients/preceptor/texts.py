"""Texts that go to a model and come back: templates filled in, replies read strictly or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping


def without_thinking(text: str) -> str:
    """What a model said once it had thought: the text without `<think> ... </think>`."""
    return re.sub(r"<think>.*?</think>\s*", "", text, flags=re.DOTALL).strip()


def tagged(reply: str, tag: str) -> str:
    """What stands between `<tag>` and `</tag>` in a reply, whatever else it thought or said.

    Raises ValueError where that is there not at all, more than once, or empty.
    """
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", without_thinking(reply), re.DOTALL)
    if len(found) != 1 or not found[0].strip():
        what = "is empty" if len(found) == 1 else f"is there {len(found)} times"
        raise ValueError(f"<{tag}> ... </{tag}> {what} in the reply")
    return found[0].strip()


def filled(template: str, pieces: Mapping[str, str]) -> str:
    """The template with every `{name}` replaced. One pass: braces in a piece are text and no placeholder."""
    names = "|".join(re.escape(name) for name in pieces)
    return re.sub(rf"\{{({names})\}}", lambda found: pieces[found[1]], template)
