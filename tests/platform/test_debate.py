"""Debates with real processes: one outlives its worker and counts nothing twice, others are held while a run trains."""

from __future__ import annotations

import threading

from preceptor.client import Client
from preceptor.wire.debates import DebateCreate, DebateState
from preceptor.wire.runs import RunState
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


def test_debates_are_held_while_the_only_trainer_trains(stack: Stack, client: Client) -> None:
    stack.only_worker().stop()
    trainer, both = stack.start_worker("trains", "runs"), threading.Barrier(2)

    def together(prompt: str) -> str:
        if "<question>" in prompt:
            both.wait(60)  # nobody is answered before the other debate has come as far
        return reply("Six sevens.", 90)

    with debater(together) as cid, debater(lambda prompt: reply("Six sevens.", 70)) as dan:
        for name, one in (("cid", cid), ("dan", dan)):
            client.teachers.add(TeacherCreate(name=name, url=one.url, kind=TeacherKind.OPENAI))
        questions = ("What is six times seven?", "What is seven times six?")
        wishes = [DebateCreate(question=each, teachers=("cid", "dan")) for each in questions]
        debates = [client.debates.start(wish) for wish in wishes]
        run = stack.start_run(client, "trains-meanwhile", steps=500, checkpoint_every=500, evaluate_every=500)
        trainer.wait_until("training", lambda: client.runs.get(run.id).step >= 1)
        assert [client.debates.get(each.id).state for each in debates] == [DebateState.QUEUED] * 2, "it takes runs"

        holder = stack.start_worker("holds", "debates")
        done = [client.debates.wait(each.id, every=0.1) for each in debates]
        assert [each.state for each in done] == [DebateState.SUCCEEDED] * 2, [each.error for each in done]
        assert {each.worker for each in done} == {holder.name} and not any(
            each.result.excluded for each in done if each.result
        )
        now = client.runs.get(run.id)
        assert (now.state, now.worker) == (RunState.RUNNING, trainer.name), "the run went on"
        client.runs.cancel(run.id)
        trainer.wait_until("free", lambda: client.runs.get(run.id).state.ended)
    assert holder.stop() == 0 and trainer.stop() == 0
