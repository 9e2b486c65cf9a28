"""Verifiers by name, one file each. `kind` is the name that data and recipes use: `disclosure`, `exact`, `math`,
`procedural`, `program`."""

from __future__ import annotations

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.verifiers.disclosure import Disclosure
from preceptor_trainer.verifiers.exact import Exact
from preceptor_trainer.verifiers.math import Math
from preceptor_trainer.verifiers.procedural import Procedural
from preceptor_trainer.verifiers.program import Program

__all__ = ["Disclosure", "Exact", "Math", "Procedural", "Program", "Verifier", "final_answer", "load", "names"]


def names() -> list[str]:
    """Every verifier there is, sorted."""
    return sorted(Verifier.kinds)


def load(name: str) -> Verifier:
    """The verifier of this name at its default settings. Raises ValueError that lists the names there are."""
    if name not in Verifier.kinds:
        raise ValueError(f"there is no verifier {name!r}; choose one of {', '.join(names())}")
    return Verifier.model_validate({"kind": name})
