"""Finding the final answer in a completion."""

from __future__ import annotations

import re

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def final_answer(text: str) -> str:
    """The part of a completion that states its answer, stripped.

    The last of: what follows `####` on its line (GSM8K's mark), what stands in `<answer>` tags (reasoning-gym's), what
    stands in `\\boxed{}` (MATH's). A completion with none of these marks is its own answer, whole.
    """
    marks = [(match.end(), match.group(1)) for match in re.finditer(r"####[ \t]*([^\n]*)", text)]
    marks += [(match.end(), match.group(1)) for match in _TAG.finditer(text)]
    marks += _boxed(text)
    return max(marks)[1].strip() if marks else text.strip()


def _boxed(text: str) -> list[tuple[int, str]]:
    """End and content of every `\\boxed{...}`, nested braces included; an unclosed box is none."""
    found = list[tuple[int, str]]()
    for opening in re.finditer(r"\\boxed\{", text):
        depth = 1
        for index in range(opening.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                found.append((index + 1, text[opening.end() : index]))
                break
    return found
