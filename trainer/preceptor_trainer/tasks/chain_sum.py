"""Adding and subtracting a chain of numbers: reasoning-gym's `chain_sum`, 3 to 5 one-digit terms unless told.

The reference is worked step by step, so that a small model has to carry a running total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from preceptor_trainer.tasks._gym import GymTask


class ChainSum(GymTask):
    """`... the following arithmetic problem: 4 + 3 - 9 =` -> `4 + 3 = 7`, `7 - 9 = -2`, `#### -2`, a line each."""

    name: ClassVar[str] = "chain_sum"
    answer_tokens: ClassVar[int] = 80
    min_terms: int = Field(3, ge=2, le=20)
    """Fewest numbers in a chain."""
    max_terms: int = Field(5, ge=2, le=20)
    """Most numbers in a chain."""
    min_digits: int = Field(1, ge=1, le=10)
    """Fewest digits of a number."""
    max_digits: int = Field(1, ge=1, le=10)
    """Most digits of a number."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (("min_terms", "max_terms"), ("min_digits", "max_digits")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) is above {high} ({getattr(self, high)})")
        return self

    def reference(self, entry: Mapping[str, Any]) -> str:
        return "\n".join([*_steps(entry), f"#### {entry['answer']}"])

    def begun(self, entry: Mapping[str, Any]) -> str:
        steps = _steps(entry)
        return "\n".join(steps[: (len(steps) + 1) // 2])


def _steps(entry: Mapping[str, Any]) -> list[str]:
    """One line per operator: the running total, the next number, the new total."""
    first, *rest = str(entry["metadata"]["expression"]).split()
    total, lines = int(first), list[str]()
    for operator, number in zip(rest[::2], rest[1::2], strict=True):
        following = total + int(number) if operator == "+" else total - int(number)
        lines.append(f"{total} {operator} {number} = {following}")
        total = following
    return lines


TASK = ChainSum
