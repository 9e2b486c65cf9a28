"""reasoning-gym's own scorer, for its procedural tasks and for rows exported from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, cast

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import Task, Verdict

REVIEWED = frozenset(
    {
        "ab", "calendar_arithmetic", "chain_sum", "circuit_logic", "color_cube_rotation", "decimal_chain_sum", "dice",
        "products", "self_reference", "sentence_reordering", "spell_backward", "sudoku", "tsumego", "word_ladder",
        "word_sorting", "zebra_puzzles",
    }
)  # fmt: skip
"""Scorers of reasoning-gym that treat answer and metadata as data: their code was read. Others call `eval` on a model's
text, or on a row that somebody uploaded. Those that only compare text, by the base class's method, need no review."""


class Procedural(Verifier, kind="procedural"):
    """Scores the final answer as reasoning-gym does. Its partial credit is the reward; only a full 1.0 is correct.

    The task needs the `metadata` column that reasoning-gym writes, which names the `source_dataset`. Only scorers that
    never run what they read are used.
    """

    columns: ClassVar[tuple[str, ...]] = ("answer", "metadata")

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 0 .. 1. Raises ValueError for a task that does not come from reasoning-gym."""
        metadata = _metadata(task.columns.get("metadata"))
        name = metadata.get("source_dataset")
        if not isinstance(name, str):
            raise ValueError(
                f"verifier 'procedural': task {task.id} has no metadata.source_dataset, which names the scorer. "
                "Use it on rows that reasoning-gym made, or choose another verifier."
            )
        entry = {"question": task.messages[-1]["content"], "answer": task.answer, "metadata": metadata}
        reward = float(_scorer(name)(final_answer(text), entry))
        correct = reward == 1.0
        return Verdict(reward=reward, correct=correct, feedback=None if correct else "The answer is wrong.")


def _metadata(value: Any) -> dict[str, Any]:
    """Exports often hold the metadata as JSON text, since its shape differs between data sets."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


@lru_cache(maxsize=64)
def _scorer(name: str) -> Callable[[str, dict[str, Any]], float]:
    import reasoning_gym
    from reasoning_gym.dataset import ProceduralDataset

    try:
        scorer = reasoning_gym.get_score_answer_fn(name)
    except ValueError as error:
        raise ValueError(f"verifier 'procedural': reasoning-gym has no data set {name[:100]!r}") from error
    if name not in REVIEWED and getattr(scorer, "__func__", None) is not ProceduralDataset.score_answer:
        raise ValueError(
            f"verifier 'procedural': reasoning-gym's scorer of '{name}' has not been reviewed; some of its scorers "
            "evaluate the answer or the metadata as Python. Use another verifier for these rows."
        )
    return cast("Callable[[str, dict[str, Any]], float]", scorer)
