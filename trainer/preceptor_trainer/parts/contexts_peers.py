"""Contexts of a student that has a peer: its prompt for the peer, there where the peer is reliably better, and for the
student as it began, there where that was better than the peer; and the peer's feedback, where it is the better one.

All of them ask what verified rollouts say of the task's domain (`ContextView.standing`). A run that is no side of a
pair has no standing, and is refused a recipe that reads it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from preceptor_trainer.parts.contexts_tutored import Tutored
from preceptor_trainer.recipe import REWARD, SingleContext
from preceptor_trainer.standing import STANDING, Standing, domain_of
from preceptor_trainer.views import Ask, ContextView, Message

Confidence = Field(default=0.95, gt=0, lt=1)
PriorCount = Field(default=1.0, gt=0, le=1e6)


class Known(SingleContext):
    """The student's own prompt, where something is sure enough of the task's domain."""

    reads: ClassVar[frozenset[str]] = frozenset({REWARD, STANDING})
    told: ClassVar[str]
    """What a step's metrics call it: `told/DOMAIN` is 1 where it was heard."""
    confidence: float = Confidence
    """Probability from which on it counts as sure."""
    margin: float = Field(default=0.0, ge=0, lt=1)
    """By how much the better must be better, as a difference of success rates."""
    prior_right: float = PriorCount
    """Successes that are thought to have been seen before any was; with `prior_wrong` 1 as well, every success rate is
    as likely as any other."""
    prior_wrong: float = PriorCount
    """Failures."""

    @property
    def prior(self) -> tuple[float, float]:
        """Of every success rate."""
        return self.prior_right, self.prior_wrong

    @abstractmethod
    def sure(self, standing: Standing) -> float:
        """How sure it is."""

    def heard(self, standing: Standing) -> bool:
        """Whether it is sure enough."""
        return self.sure(standing) >= self.confidence

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        return view.task.messages if self.heard(view.standing.get(domain_of(view.task.columns), Standing())) else None


class BetterPeer(Known, kind="better_peer"):
    """The peer is asked in domains where it is reliably better than the student (the cognizance gate of OPCoD,
    arXiv:2606.14368, by domain and with a prior)."""

    told: ClassVar[str] = "gate"
    teacher: str = "peer"
    """The role to ask: the other side's student fills it."""

    def sure(self, standing: Standing) -> float:
        return standing.peer_is_better(self.prior, self.margin)


class BetterStart(Known, kind="better_start"):
    """The student as it began is asked in domains where it began reliably better than its peer, so that what it was
    good at stays."""

    told: ClassVar[str] = "anchor"
    teacher: str = "start"
    """The role to ask: `base`, the student's own weights before the first step."""

    def sure(self, standing: Standing) -> float:
        return standing.began_better(self.prior, self.margin)


class BetterTutor(Tutored, kind="better_tutor"):
    """`tutored`, by a peer that verified outcomes show to be reliably better in the task's domain: nobody asks it for
    attempts of its own then, and `kappa` and `attempts` are not looked at."""

    reads: ClassVar[frozenset[str]] = Tutored.reads | {STANDING}
    told: ClassVar[str] = "gate"
    confidence: float = Confidence
    """Probability from which on it counts as sure."""

    def heard(self, standing: Standing) -> bool:
        """Whether the peer is sure enough to be better."""
        return standing.peer_is_better((1.0, 1.0), 0.0) >= self.confidence

    def asks(self, view: ContextView) -> Sequence[Ask]:
        if self.peer is None or "feedback" in view.replies:
            return ()
        standing = view.standing.get(domain_of(view.task.columns), Standing())
        return [self._ask(view, "feedback", self.ask_template)] if self.heard(standing) else ()
