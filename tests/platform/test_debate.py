"""Debates with real processes: one outlives its worker and counts nothing twice, others are held while a run trains;
eight debaters of whom one fails and one babbles, asked by hand and by a run of two ranks."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack

import pytest

from preceptor.client import Client
from preceptor.wire.data import TaskSource
from preceptor.wire.debates import Debate, DebateCreate, DebateState
from preceptor.wire.runs import RunCreate, RunState
from preceptor.wire.teachers import TeacherCreate, TeacherKind
from tests.debaters import Debater, Say, debater, reply
from tests.platform.stack import MODEL, Stack

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


EIGHT = ("ada", "ben", "cat", "deb", "eve", "fay", "gus", "hal")
FAILS, BABBLES = "cat", "gus"


def sayings(name: str) -> Say:
    """What one of eight says. Whoever fails or babbles does so once the debate has begun: a probe finds nothing."""

    def say(prompt: str) -> str | int:
        if "<question>" in prompt and name == FAILS:
            return 500
        if "<question>" in prompt and name == BABBLES:
            return "<confidence>100</confidence> Well, as I said, and as I always say. <confidence>99</confidence>"
        return reply(f"{name} has counted.", 10 * (1 + EIGHT.index(name)))

    return say


def shares(left: list[str]) -> dict[str, float]:
    """What each of them counts: softmax of what they say they are sure of."""
    each = {name: math.exp(0.1 * (1 + EIGHT.index(name))) for name in left}
    return {name: value / sum(each.values()) for name, value in each.items()}


def held_by_six(debate: Debate, names: dict[str, str]) -> None:
    """It ended well without the two, who are told; `names`: what it calls each of the eight."""
    left = [name for name in EIGHT if name not in (FAILS, BABBLES)]
    assert debate.state is DebateState.SUCCEEDED and debate.result is not None, debate.error
    result = debate.result
    assert result.weights == pytest.approx({names[name]: share for name, share in shares(left).items()})
    assert sum(result.weights.values()) == pytest.approx(1.0, abs=1e-12)
    assert {(out.debater, out.round, out.missing) for out in result.excluded} == {
        (names[FAILS], 1, "unavailable"),
        (names[BABBLES], 1, "unreadable"),
    }
    assert result.calls == len(debate.turns) == len(EIGHT) + len(left), "in the second round six are asked"
    assert "as I always say" not in result.transcript
    assert all(f"{name} has counted" in result.transcript for name in left)


def test_of_eight_debaters_one_fails_and_one_babbles(stack: Stack, client: Client) -> None:
    """By hand, and in a run of two ranks: each question is debated once, on one rank, and is stored once."""
    for child in stack.workers:
        if child.popen.poll() is None:
            child.stop()
    worker, steps, batch = stack.start_worker("two-ranks", DEVICES="2"), 2, 4
    with ExitStack() as serving:
        eight = {name: serving.enter_context(debater(sayings(name), tokens=TOKENS)) for name in EIGHT}
        for name, one in eight.items():
            client.teachers.add(TeacherCreate(name=name, url=one.url, kind=TeacherKind.OPENAI))
        wish = DebateCreate(question="How many letters has this?", teachers=EIGHT, stop=())
        held_by_six(client.debates.wait(client.debates.start(wish).id, every=0.1), {name: name for name in EIGHT})

        before = {name: len(asked(one)) for name, one in eight.items()}
        debating = tuple(f"d{at}" for at in range(len(EIGHT)))
        debate = {"debaters": debating, "speakers": EIGHT, "sighted": False, "from_data": False, "on_failure": "drop"}
        run = client.runs.start(
            RunCreate(
                name="debates-on-two-ranks",
                recipe="mad_opd",
                overrides={"rollout": {"max_tokens": 8, "samples": 2}, "contexts": {"debate": debate}},
                student=client.artifacts.push(MODEL, "model", "tiny"),
                teachers=dict.fromkeys(debating, "base") | {name: name for name in EIGHT},
                data=TaskSource(task="spell_backward"),
                training={"steps": steps, "batch": batch, "evaluate_items": 4, "warmup_steps": 0, "devices": 2},
            )
        )
        assert list(client.runs.events(run.id))
        run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    found = [client.debates.get(each.id) for each in client.debates.list(run=run.id)]
    places = {(each.run.step, each.run.task) for each in found if each.run is not None}
    assert len(places) == len(found) == steps * batch
    for each in found:
        held_by_six(each, dict(zip(EIGHT, debating, strict=True)))
    asked_for = {name: len(asked(one)) - before[name] for name, one in eight.items()}
    left = {name for name in EIGHT if name not in (FAILS, BABBLES)}
    assert all(asked_for[name] == 2 * len(found) for name in left) and asked_for[BABBLES] == len(found)
    ledgers = [each.ledger for each in client.runs.metrics(run.id)]
    for ledger in ledgers:
        assert all(ledger.teachers[name].texts == 2 * batch for name in left)
        assert ledger.teachers[FAILS].unwritten == batch and ledger.teachers[BABBLES].unreadable == 2 * batch
        assert ledger.contexts == ledger.scored_sequences == ledger.rollouts * len(left) == 2 * batch * len(left)
    assert worker.stop() == 0
