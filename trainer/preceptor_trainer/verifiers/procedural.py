"""reasoning-gym's own scorer, for its procedural tasks and for rows exported from it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import Task, Verdict


class Procedural(Verifier, kind="procedural"):
    """Scores the final answer as reasoning-gym does. Its partial credit is the reward; only a full 1.0 is correct.

    The task needs the `metadata` column that reasoning-gym writes, which names the `source_dataset`.
    """

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 0 .. 1. Raises ValueError for a task that does not come from reasoning-gym."""
        metadata = task.columns.get("metadata")
        name = metadata.get("source_dataset") if isinstance(metadata, dict) else None
        if not isinstance(name, str):
            raise ValueError(
                f"verifier 'procedural': task {task.id} has no metadata.source_dataset, which names reasoning-gym's scorer. "
                "Use it on rows that reasoning-gym made, or choose another verifier."
            )
        entry = {"question": task.messages[-1]["content"], "answer": task.answer, "metadata": metadata}
        reward = float(_scorer(name)(final_answer(text), entry))
        correct = reward == 1.0
        return Verdict(reward=reward, correct=correct, feedback=None if correct else "The answer is wrong.")


@lru_cache(maxsize=32)
def _scorer(name: str) -> Any:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(name)
