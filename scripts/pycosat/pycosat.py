"""Stands in for pycosat, which comes as C source only, on machines without a compiler.

reasoning-gym imports pycosat for its zebra puzzles alone. With this in its place every other task works, and zebra
puzzles say what is missing.
"""

from __future__ import annotations

from typing import Any, NoReturn


def _absent(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "This task needs pycosat, and Preceptor was installed without it: it has to be compiled, and there was no C "
        "compiler. Install one with Python's headers (Debian: gcc python3-dev), then run: "
        "pip install --force-reinstall pycosat"
    )


solve = itersolve = _absent
