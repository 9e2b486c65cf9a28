"""Multi-agent debate OPD (arXiv:2605.01347): K teachers debate the student's answer; each then force-decodes it,
weighted by confidence.

w_k = softmax_k(c_k / tau);  L = sum_k w_k sum_t D(T_k(.|x, h, y_<t), S(.|x, y_<t)).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp

from pydantic import Field

from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Each
from preceptor_trainer.recipe import Context, Recipe
from preceptor_trainer.views import Ask, ContextView, Message, Prompt


class Debate(Context, kind="sketch_debate"):
    """Rounds of replies by every debater, each seeing the transcript so far; the whole transcript is each one's
    context."""

    debaters: tuple[str, ...] = Field(min_length=1)
    """Roles."""
    rounds: int = Field(default=2, ge=1)
    """Rounds."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the confidences."""

    def asks(self, view: ContextView) -> Sequence[Ask]:
        for number in range(self.rounds):
            missing = [each for each in self.debaters if f"{number}/{each}" not in view.replies]
            if missing:
                prompt = f"{self._question(view)}\nEnd with `confidence: 0-100`.\n{self._transcript(view, number)}"
                return [
                    Ask(key=f"{number}/{each}", teacher=each, messages=(Message(role="user", content=prompt),))
                    for each in missing
                ]
        return ()

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        scores = [exp(self._confidence(view, each) / self.tau) for each in self.debaters]
        text = f"{self._question(view)}\n{self._transcript(view, self.rounds)}\nNow answer."
        return [
            Prompt(messages=(Message(role="user", content=text),), teacher=each, weight=score / sum(scores))
            for each, score in zip(self.debaters, scores, strict=True)
        ]

    def _question(self, view: ContextView) -> str:
        return f"{view.task.messages[-1]['content']}\nA student answered: {view.rollout.text}"

    def _transcript(self, view: ContextView, rounds: int) -> str:
        keys = [f"{number}/{each}" for number in range(rounds) for each in self.debaters]
        return "\n".join(view.replies[key] for key in keys if key in view.replies)

    def _confidence(self, view: ContextView, debater: str) -> float:
        found = re.search(r"confidence: (\d{1,3})\b", view.replies[f"{self.rounds - 1}/{debater}"])
        if found is None:
            raise ValueError(f"debater '{debater}' gave no confidence in its last reply")
        return min(int(found[1]), 100) / 100


RECIPE = Recipe(
    paper="arXiv:2605.01347",
    rollout=Student(samples=1, temperature=0.7),
    contexts={"debate": Debate(teacher="affirmative", debaters=("affirmative", "negative"))},
    target=Each(contexts=("debate",)),
    objective=(JSD(beta=0.5),),
)
