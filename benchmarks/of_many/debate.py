"""What a debate costs against its budget: calls, tokens, seconds.

A control plane and debaters in this process, over HTTP; the debate is held by the code that workers run. A debater is
our teacher service around a rule that takes half a second to say a few words, so that what is measured is the debate
and not its writers. Asked one after another, eight would take eight times as long as one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from of_many.serving import KEY_ENV, served, teacher
from of_teacher.pairs import Ratios

from preceptor.client import Client
from preceptor.wire.debates import Debate, DebateCreate, DebateResult
from preceptor.wire.teachers import TeacherCreate
from preceptor_services.api.app import create_app
from preceptor_services.settings import Settings
from preceptor_services.teacher.backends import Draw, Token
from preceptor_services.teacher.backends.scripted import END, ScriptedBackend, ScriptedText
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.cache import ArtifactCache
from preceptor_services.worker.debate import hold

COUNTS = (2, 4, 8)
ROUNDS, DELAY_SECONDS, MAX_TOKENS = 3, 0.5, 128
ADMIN = "pk-admin-of-a-benchmark-0123456789"
MOST = 0.5
"""Share that eight debaters may take of the seconds that they would take one after another."""
OVER = 1.2
"""How much of its time budget a debate may take: the round in hand is broken off, and its end reported."""
SAID = b"<argument>It is so.</argument><answer>%d</answer><confidence>50</confidence>"


def debate(ratios: Ratios, small: bool) -> None:
    """Whole debates of 2, 4 and 8; then one that its tokens end, and one that its seconds end."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        house = _House(Path(folder), opened, COUNTS[-1])
        for count in COUNTS[:1] if small else COUNTS:
            held, took = house.hold(count)
            bar = MOST if count == COUNTS[-1] else None
            sizes = {"seconds": round(took, 3), "calls": held.calls, "tokens": held.tokens}
            in_turn = count * ROUNDS * DELAY_SECONDS
            ratios.add(f"debate.{count}_against_one_after_another", took / in_turn, bar, sizes, at_most=True)
        _against_budgets(ratios, house)


def _against_budgets(ratios: Ratios, house: _House) -> None:
    tokens = 2 * MAX_TOKENS + len(SAID) * 2
    held, _ = house.hold(2, {"tokens": tokens})
    sizes = {"tokens": held.tokens, "budget": tokens, "rounds": held.rounds, "ended": held.ended}
    ratios.add("debate.tokens_against_budget", held.tokens / tokens, 1.0, sizes, at_most=True)
    seconds = 2.5 * DELAY_SECONDS
    held, took = house.hold(2, {"seconds": seconds})
    sizes = {"seconds": round(took, 3), "budget": seconds, "rounds": held.rounds, "ended": held.ended}
    ratios.add("debate.seconds_against_budget", held.seconds / seconds, OVER, sizes, at_most=True)


class _Slow(ScriptedText):
    """Says the same whatever it is asked, and takes its time."""

    def __init__(self, words: bytes) -> None:
        self._words = words

    def write(self, prompt: Sequence[int], draw: Draw) -> Iterator[Token]:
        time.sleep(DELAY_SECONDS)
        for each in [*self._words, END][: draw.max_tokens]:
            yield Token(id=each, logprob=0.0)


class _NoQueue:
    """Whoever submits here holds the debate itself."""

    def enqueue_run(self, run_id: str) -> None:
        """Nobody is told."""

    def enqueue_debate(self, debate_id: str) -> None:
        """Nobody is told."""


class _House:
    """A control plane with so many debaters, who never agree."""

    def __init__(self, folder: Path, opened: ExitStack, count: int) -> None:
        settings = Settings.model_validate({"home_dir": folder / "home", "admin_key": ADMIN})
        plane = opened.enter_context(served(create_app(settings, _NoQueue()), "control plane"))
        self._client = opened.enter_context(Client(plane, ADMIN))
        cache = ArtifactCache(self._client, folder, 10**9)
        self._bench = Bench(client=self._client, name="benchmark", folder=folder, cache=cache)
        self._names = [f"debater{index}" for index in range(count)]
        for index, name in enumerate(self._names):
            backend = ScriptedBackend()
            backend.text = _Slow(SAID % index)
            url = opened.enter_context(teacher(name, backend)).url
            self._client.teachers.add(TeacherCreate(name=name, url=url, key_env=KEY_ENV))
        self.hold(count)  # connections are made, cards fetched

    def hold(self, count: int, budget: dict[str, float] | None = None) -> tuple[DebateResult, float]:
        """A debate of so many; what came of it, and seconds from when it was taken up to its end."""
        wish = DebateCreate.model_validate(
            {
                "question": "Is it so?",
                "teachers": self._names[:count],
                "overrides": {"rounds": ROUNDS},
                "stop": (),
                "max_tokens": MAX_TOKENS,
                "budget": budget or {},
                "fresh": True,
            }
        )
        asked = self._client.debates.start(wish)
        began = time.perf_counter()
        hold(asked.id, self._bench)
        took = time.perf_counter() - began
        return _result(self._client.debates.get(asked.id)), took


def _result(held: Debate) -> DebateResult:
    if held.result is None:
        raise SystemExit(f"the debate {held.id} {held.state.value}: {held.error}")
    return held.result
