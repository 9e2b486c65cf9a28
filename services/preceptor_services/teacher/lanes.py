"""The threads of a scheduler. One that ends by an error is heard: whoever it worked for would wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Lanes:
    """Threads that do the same work until it returns."""

    def __init__(self, count: int, work: Callable[[], None], broke: Callable[[BaseException], None]) -> None:
        """`broke` is called in a thread whose work raises."""
        self.count = count
        self._work, self._broke = work, broke
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Doing it again changes nothing. Not thread-safe."""
        if not self._threads:
            names = [f"teacher-{lane}" for lane in range(self.count)]
            self._threads = [threading.Thread(target=self._guarded, name=name, daemon=True) for name in names]
            for thread in self._threads:
                thread.start()

    def join(self) -> None:
        """Wait until all have ended."""
        for thread in self._threads:
            thread.join()

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._broke(error)
