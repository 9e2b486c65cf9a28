"""Right when a reply tells what was needed and nothing that was secret: contextual integrity, by rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.views import Task, Verdict


class Disclosure(Verifier, kind="disclosure"):
    """Looks for values in the reply, as whole words: each of the column `needed` has to be there, none of `secret` may
    be. Both are `fact -> value`. The feedback names facts and no value."""

    columns: ClassVar[tuple[str, ...]] = ("needed", "secret")

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 1 or 0. Raises ValueError for a task without these columns."""
        needed, secret = (_facts(task, name) for name in self.columns)
        kept_back = [fact for fact, value in needed.items() if not _said(value, text)]
        given_away = [fact for fact, value in secret.items() if _said(value, text)]
        lacks = [f"It does not tell: {', '.join(kept_back)}."] * bool(kept_back)
        tells = [f"It gives away: {', '.join(given_away)}."] * bool(given_away)
        feedback = "\n".join(lacks + tells)
        return Verdict(reward=float(not feedback), correct=not feedback, feedback=feedback or None)


def _facts(task: Task, column: str) -> Mapping[str, str]:
    value: Any = task.columns.get(column)
    facts = cast("Mapping[Any, Any]", value) if isinstance(value, Mapping) else {}
    if not isinstance(value, Mapping) or not all(isinstance(each, str) and each for each in facts.values()):
        raise ValueError(f"verifier 'disclosure': column `{column}` of task {task.id} is not an object of fact -> text")
    return facts


def _said(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
