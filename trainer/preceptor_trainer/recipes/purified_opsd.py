"""Purified OPSD (arXiv:2607.02234): only what the reference says *about this question* teaches.

Three frozen views of every token: question and reference, reference alone, question alone. What the first finds
likelier than the second is what question and reference say together; added to the plain view it is the target. What the
reference alone explains (its wording, its length) cancels.

    D = log T(q, r) - log R(r), centred;  D' = c tanh(D / c);  q = softmax(log P0 + D' / beta);  L = JSD(S, q)

Evidence: notes on the paper and a third party's unit test, not the paper's text. c 10 and beta 1 are theirs. The text
in which the reference stands alone was not found: ours. With beta other than 1, `coefficients` are 1/beta and -1/beta,
and `clip` is c / beta.

Helps where a reference makes a model answer in the reference's manner whatever was asked: that part is taken off. Not
where the reference alone already answers the question, as a worked solution does: then what is left is little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from preceptor_trainer.parts.contexts import Plain, Reference, corrupted
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import LogLinear
from preceptor_trainer.recipe import Recipe, Reduces, SingleContext
from preceptor_trainer.views import ContextView, Message


class ReferenceAlone(SingleContext, kind="reference_alone"):
    """A worked solution, and not the question that it solves."""

    columns: ClassVar[tuple[str, ...]] = ("reference",)
    reveals: ClassVar[frozenset[str]] = frozenset({"answer", "reference"})
    before: str = "Here is a reference solution to a problem:\n"
    """What stands before it."""
    after: str = "\n\nAfter understanding the reference solution, now solve the problem in your own words."
    """What stands after it."""
    wrong: bool = False
    """The control arm: show a corrupted one."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        reference = view.task.reference
        if not reference:
            return None
        shown = corrupted(reference, view.rng) if self.wrong else reference
        return (Message(role="user", content=f"{self.before}{shown}{self.after}"),)


RECIPE = Recipe(
    paper="arXiv:2607.02234",
    rollout=Student(samples=1),
    contexts={
        "informed": Reference(teacher="self"),
        "reference": ReferenceAlone(teacher="self"),
        "plain": Plain(teacher="self"),
    },
    target=LogLinear(coefficients={"informed": 1.0, "reference": -1.0}, base="plain", centre=True, clip=10.0),
    objective=(JSD(beta=0.5),),
    reduces=(
        Reduces(to="opsd", when={"target": {"base": "reference", "clip": None}}),
        Reduces(
            to="beta_opsd",
            when={
                "contexts": {"reference": {"kind": "plain"}},
                "target": {"coefficients": {"informed": 0.5, "reference": -0.5}, "clip": None},
            },
        ),
    ),
    training={"learning_rate": 5e-6},
)
