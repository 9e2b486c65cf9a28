"""Contrastive evidence policy optimisation (arXiv:2605.19436): a token earns more when the right answer makes it
likelier than a wrong one does.

    w = (P_T+ / P_T-)^sign(A),  A' = A [(1 - lam) + lam clip(w, 1 - eps, 1 + eps)],  lam falls to 0

RLSD with the student below the line replaced: T+ is the student's own weights shown the right answer, T- shown the
final answer of the group's worst rollout. What any answer in the prompt would make likelier cancels out.

Evidence: notes of the full paper and the code's README (ahmedheakl/CEPO). lam from 0.5 to 0 within 25 steps, eps 0.5,
8 rollouts, clip 0.20/0.28, learning rate 5e-6 and the live teacher are theirs; the copy after every step stands for
"live", and the templates are ours. Without a wrong rollout the student stands below the line, as there: RLSD.

Helps where answers are verified, and a right and a wrong final answer pull tokens apart. Not where all rollouts of a
group get the same reward, nor where the answer is the whole reply.
"""

from __future__ import annotations

from typing import ClassVar

from preceptor_trainer.parts.contexts import Answer
from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.parts.weights import AnchoredRatio
from preceptor_trainer.recipe import GROUP, REWARD, Recipe, Reduces
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import ContextView


class WrongAnswer(Answer, kind="wrong_answer"):
    """The final answer of the group's worst rollout, put as if it were right. No opinion where none was wrong."""

    columns: ClassVar[tuple[str, ...]] = ()
    reveals: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset({GROUP, REWARD})

    def content(self, view: ContextView) -> str | None:
        wrong = [(each.verdict.reward, each.text) for each in view.group if each.verdict and not each.verdict.correct]
        return final_answer(min(wrong, key=lambda each: each[0])[1]) if wrong else None


RATIO = AnchoredRatio(over="right", under="wrong", epsilon=0.5, mix=Linear(start=0.5, end=0.0, steps=25)).model_dump()

RECIPE = Recipe(
    paper="arXiv:2605.19436",
    rollout=Student(samples=8),
    contexts={"right": Answer(teacher="self"), "wrong": WrongAnswer(teacher="self")},
    weights=(AnchoredRatio.model_validate(RATIO),),
    objective=(PolicyGradient(low=0.2, high=0.28),),
    teacher=CopyEvery(every=1),
    training={"learning_rate": 5e-6},
    reduces=(
        Reduces(
            to="rlsd",
            when={"weights": [{**RATIO, "under": "student"}]},
            given={
                "contexts": {"reference": {"kind": "answer"}},
                "weights": [{**RATIO, "over": "reference", "under": "student"}],
            },
        ),
        Reduces(to="grpo", when={"weights": [{**RATIO, "mix": 0.0}]}),
    ),
)
