"""Memory that was freed, and that this process still holds."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Return free pages to the system, where the C library can (glibc); elsewhere nothing happens.

    Gradients come to lie in the gaps that activations left, the next pass finds no gap of its size, and the heap grows
    by what it holds free (`scripts/bench learner --only step` measures the peak). The price: free pages are looked for,
    and zeroed again when they are next used.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
