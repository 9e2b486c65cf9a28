"""What decides, rollout by rollout, which of several teachers a context asks. Its kinds are in `parts/routers.py`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from preceptor.errors import Invalid
from preceptor_trainer.part import Part
from preceptor_trainer.views import Ask, ContextView


class Unrouted(Invalid):
    """A rollout that no teacher of the run is for."""

    slug, title = "unrouted", "A domain without a teacher"


class Router(Part):
    """Which of several teachers a rollout is for. Whoever it is not for is not asked about it."""

    @property
    @abstractmethod
    def experts(self) -> tuple[str, ...]:
        """The roles that it chooses among."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Task fields without which it cannot choose; the data is checked for them at submit."""
        return ()

    @property
    def writers(self) -> tuple[str, ...]:
        """The roles that `asks` wants text of."""
        return ()

    def asks(self, view: ContextView) -> Sequence[Ask]:
        """Text wanted before it can choose. Called again with the replies until it returns nothing."""
        return ()

    def read(self, view: ContextView, key: str, reply: str) -> str:
        """What is kept of a reply. Raises ValueError where it has not the form that was asked for."""
        raise ValueError("this router asks for no text")

    def unheard(self, column: str, value: str) -> bool:
        """Whether rows with this value in this column would have no teacher: they are refused at submit."""
        return False

    @abstractmethod
    def choose(self, view: ContextView) -> str | None:
        """The role to ask; None: nobody, and there is no opinion on this rollout. Raises Unrouted where the data holds
        what the run has no teacher for."""
