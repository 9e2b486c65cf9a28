"""SELFCI (arXiv:2605.20258): what may be shared and what must be withheld, from two self-teachers at once.

Feedback on what an answer should hold comes in two halves; the same model, shown one half or the other, scores the
student's tokens, and the student is drawn to both. In gradient that is their geometric mean: what either forbids is
out.

    L = w_d KL(S || T(.| x, f_withhold)) + w_a KL(S || T(.| x, f_share))

Evidence: the authors' code was read. Weights 1 and 1, the whole vocabulary and a frozen teacher are theirs. Both halves
are columns of the data, `allowed` and `disallowed`, written beforehand (theirs are by the same model, offline, too);
the words around them are ours. Also theirs: EMA 0.999, and a target that mixes in the student (`log_linear` with
`student`).

Helps where some of what is in the context may be said and some may not. It needs both halves written down for every
task, and is no way to learn to be right.
"""

from __future__ import annotations

from typing import ClassVar

from preceptor_trainer.parts.contexts import Shown
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces
from preceptor_trainer.views import ContextView


class Allowed(Shown, kind="allowed"):
    """What the reply should share."""

    placeholder: ClassVar[str] = "feedback"
    columns: ClassVar[tuple[str, ...]] = ("allowed",)
    template: str = "{question}\n\nMake sure that your reply shares this where it is needed:\n{feedback}"
    """The text that replaces the last user message; it holds `{question}` and `{feedback}` once each."""

    def content(self, view: ContextView) -> str | None:
        return view.task.columns.get(self.columns[0])


class Disallowed(Allowed, kind="disallowed"):
    """What the reply must not give away."""

    columns: ClassVar[tuple[str, ...]] = ("disallowed",)
    template: str = "{question}\n\nMake sure that your reply gives nothing of this away:\n{feedback}"
    """The text that replaces the last user message; it holds `{question}` and `{feedback}` once each."""


MEAN = {"kind": "log_linear", "coefficients": {"disallowed": 0.5, "allowed": 0.5}}

RECIPE = Recipe(
    paper="arXiv:2605.20258",
    rollout=Student(samples=1),
    contexts={"disallowed": Disallowed(teacher="self"), "allowed": Allowed(teacher="self")},
    objective=(ReverseKL(target=Single(context="disallowed")), ReverseKL(target=Single(context="allowed"))),
    reduces=(
        Reduces(
            to="opsd",
            when={},
            given={
                "contexts": {"disallowed": {"kind": "disallowed"}, "allowed": {"kind": "allowed"}},
                "target": MEAN,
                "objective": [{"kind": "reverse_kl", "coefficient": 2.0}],
            },
            up_to="gradient",
        ),
    ),
)
