"""A context that belongs to another question: what of an opinion is about this one, and what would be said of any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from preceptor_trainer.parts.contexts import Reference, asked, corrupted
from preceptor_trainer.recipe import OTHERS
from preceptor_trainer.views import ContextView, Message, Prompt


class Shuffled(Reference, kind="shuffled"):
    """This task's reference beside other questions of the step, an opinion for each: the baseline that is subtracted
    from what the reference says beside its own question (CREDIT, arXiv:2605.11613). Which questions is drawn from the
    view's random numbers, and the same whatever part of the batch is asked about first.

    No opinion where the step has no other question.
    """

    reads: ClassVar[frozenset[str]] = frozenset({OTHERS})
    inputs: int = Field(default=1, ge=1, le=16)
    """How many other questions; each costs a scoring pass."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        return next((prompt.messages for prompt in self.prompts(view)), None)

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        reference = self.content(view)
        others = [other for other in view.others if other.id != view.task.id]
        if not reference or not others:
            return ()
        reference = corrupted(reference, view.rng) if self.wrong else reference
        drawn = view.rng.sample(others, min(self.inputs, len(others)))
        pieces = {self.placeholder: reference}
        return [Prompt(messages=asked(other, self.template, pieces), weight=1 / len(drawn)) for other in drawn]
