"""Time for tests: it passes when somebody sleeps, and a little whenever somebody looks."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """A monotonic clock and the `sleep` that belongs to it. What was slept is kept."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """Called after every sleep: what happens while one waits."""

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.meanwhile()
