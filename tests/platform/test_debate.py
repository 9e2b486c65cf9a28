"""A debate that outlives its worker, with real processes: what was said is kept, and nothing is counted twice."""

from __future__ import annotations

import threading

from preceptor.client import Client
from preceptor.wire.debates import DebateCreate, DebateState
from preceptor.wire.teachers import TeacherCreate, TeacherKind
from tests.debaters import Debater, debater, reply
from tests.platform.stack import Stack

TOKENS = 7


def asked(one: Debater) -> list[str]:
    """What it was asked in the debate: a probe asks, too."""
    return [prompt for prompt in one.prompts if "<question>" in prompt]


def test_a_worker_killed_in_mid_debate_is_replaced_and_no_answer_counts_twice(stack: Stack, client: Client) -> None:
    victim, go_on = stack.only_worker(), threading.Event()

    def slow(prompt: str) -> str:
        if "<question>" in prompt:
            go_on.wait(120)
        return reply("Forty-one.", 70, "41")

    with debater(lambda prompt: reply("Six sevens.", 90), tokens=TOKENS) as ann, debater(slow, tokens=TOKENS) as bob:
        for name, one in (("ann", ann), ("bob", bob)):
            client.teachers.add(TeacherCreate(name=name, url=one.url, kind=TeacherKind.OPENAI))
        wish = DebateCreate(question="What is six times seven?", attempt="41", teachers=("ann", "bob"), stop=())
        debate = client.debates.start(wish)
        try:
            victim.wait_until("recording a turn", lambda: len(client.debates.get(debate.id).turns) == 1)
            victim.wait_until("asking both", lambda: len(asked(bob)) == 1)
            victim.kill()
        finally:
            go_on.set()
        heir = stack.start_worker("debate-heir")
        done = client.debates.wait(debate.id, every=0.1)

        assert done.state is DebateState.SUCCEEDED and done.result is not None, done.error
        assert (done.attempt, done.worker) == (2, heir.name)
        assert [(turn.round, turn.debater) for turn in done.turns] == [(1, "ann"), (1, "bob"), (2, "ann"), (2, "bob")]
        assert len(asked(ann)) == 2, "what she had said was recorded, and was not asked for again"
        assert len(asked(bob)) == 3, "his first answer went down with the worker"
        assert (done.result.calls, done.result.tokens) == (4, 4 * TOKENS)
        assert done.result.weights["ann"] > done.result.weights["bob"] and not done.result.excluded

        again = client.debates.start(wish)
        assert (again.state, again.cached_from, again.result) == (DebateState.SUCCEEDED, debate.id, done.result)
        assert len(asked(ann)) == 2
