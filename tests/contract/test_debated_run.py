"""A worker in this process trains with debates in its context: what debaters said is kept, and shown by run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from preceptor.wire.data import TaskSource
from preceptor.wire.debates import DebateState
from preceptor.wire.runs import Run, RunState
from preceptor_services.worker.advance import Bench, advance
from preceptor_services.worker.cache import ArtifactCache
from tests.contract.conftest import House
from tests.contract.debating import register
from tests.debaters import Debater, debater, reply
from tests.models import tiny_model_folder

STEPS, BATCH, SAMPLES = 3, 2, 2


@pytest.fixture
def debaters(sqlite_house: House) -> Iterator[dict[str, Debater]]:
    """Two that talk, and do not agree."""
    with ExitStack() as serving:
        says = {"ann": lambda prompt: reply("The last letter comes first.", 90), "bob": lambda prompt: "Hm."}
        found = {name: serving.enter_context(debater(say)) for name, say in says.items()}
        for name, one in found.items():
            register(sqlite_house, name, one.url)
        yield found


def start(house: House, steps: int = STEPS, **context: Any) -> Run:
    """A run that learns from its own base, which has read what others said."""
    folder = tiny_model_folder(house.tmp / "student")
    return house.run(
        recipe="mad_opd",
        student=house.admin.artifacts.push(folder, "model", "student"),
        teachers={"first": "base", "second": "base", "one": "ann", "other": "bob"},
        overrides={
            "rollout": {"max_tokens": 8, "samples": SAMPLES},
            "contexts": {"debate": {"speakers": ["one", "other"], "from_data": False, **context}},
        },
        data=TaskSource(task="spell_backward"),
        training={"steps": steps, "batch": BATCH, "evaluate_items": 2, "evaluate_every": steps, "warmup_steps": 0},
    )


def work(house: House, run: Run) -> Run:
    cache = house.tmp / "worker"
    advance(run.id, Bench(client=house.admin, name="w", folder=cache, cache=ArtifactCache(house.admin, cache, 10**9)))
    return house.admin.runs.get(run.id)


def train(house: House, **context: Any) -> Run:
    done = work(house, start(house, **context))
    assert done.state is RunState.SUCCEEDED, done.error
    return done


def test_the_debates_of_a_run_are_its_record(sqlite_house: House, debaters: dict[str, Debater]) -> None:
    run, debates = train(sqlite_house), sqlite_house.admin.debates
    found = [debates.get(each.id) for each in debates.list(run=run.id)]
    assert len(found) == STEPS * BATCH * SAMPLES and not list(debates.list())
    assert {(each.run.step, each.run.rollout) for each in found if each.run} == {
        (step, rollout) for step in range(1, STEPS + 1) for rollout in range(SAMPLES)
    }
    for each in found:
        assert each.state is DebateState.SUCCEEDED and each.result is not None and each.run is not None
        assert each.wish.attempt is not None and each.result.weights == {"first": 1.0}
        assert each.result.transcript.startswith("first: The last letter comes first.")
        assert [(out.debater, out.missing) for out in each.result.excluded] == [("second", "unreadable")]
        assert each.run.voices["first"].teacher == "ann" and each.run.voices["second"].role == "other"
        assert [turn.tokens for turn in each.turns] == [7, 7, 7]
    said = sum(step.ledger.teachers["one"].texts for step in sqlite_house.admin.runs.metrics(run.id))
    assert said == sum(turn.debater == "first" for each in found for turn in each.turns)


def test_a_run_may_keep_them_for_itself(sqlite_house: House, debaters: dict[str, Debater]) -> None:
    run = train(sqlite_house, record_every=2, sighted=False)
    found = list(sqlite_house.admin.debates.list(run=run.id))
    assert {each.run.step for each in found if each.run} == {2}, "every second step"
    assert len(found) == BATCH and all(each.wish.attempt is None for each in found), "rollouts share a blind debate"


def test_a_blind_debate_that_was_held_is_not_held_again(sqlite_house: House, debaters: dict[str, Debater]) -> None:
    debates = sqlite_house.admin.debates
    first = train(sqlite_house, sighted=False)
    asked = {name: len(one.prompts) for name, one in debaters.items()}
    assert asked["ann"] == 2 * STEPS * BATCH
    again = train(sqlite_house, sighted=False)
    assert {name: len(one.prompts) for name, one in debaters.items()} == asked, "nobody was asked again"
    held = {each.id: each for each in debates.list(run=first.id)}
    taken = [debates.get(each.id) for each in debates.list(run=again.id)]
    assert len(taken) == len(held) and {each.cached_from for each in taken} == set(held)
    assert all(each.result == held[str(each.cached_from)].result and len(each.turns) == 3 for each in taken)
    metrics = [[step.metrics["loss"] for step in sqlite_house.admin.runs.metrics(run.id)] for run in (first, again)]
    assert metrics[0] == metrics[1], "what was taken teaches what was held"
    train(sqlite_house, sighted=False, fresh=True)
    assert len(debaters["ann"].prompts) == 2 * asked["ann"]


def test_a_run_that_is_taken_up_again_keeps_what_was_said_first(sqlite_house: House) -> None:
    """The second worker computes all steps anew, since there is no checkpoint, and hears other words."""
    house, words, runs, recorded = sqlite_house, ["First thoughts."], list[Run](), list[int]()

    def ann(prompt: str) -> str:
        if "<question>" in prompt and not recorded and (step := house.admin.runs.get(runs[0].id).step) >= 2:
            recorded.append(step)
            words[0] = "Second thoughts."
            house.clock.pass_seconds(house.settings.lease_seconds + 1)
            thief = house.admin.runs.lease(runs[0].id, "thief")
            house.admin.runs.release(runs[0].id, thief.fence)
        return reply(words[0], 90)

    with debater(ann) as one, debater(lambda prompt: reply("So it is.", 50)) as other:
        for name, each in (("ann", one), ("bob", other)):
            register(house, name, each.url)
        runs.append(start(house, steps=4, fresh=True))
        assert work(house, runs[0]).state is RunState.QUEUED and recorded, "the first worker has lost it"
        assert work(house, runs[0]).state is RunState.SUCCEEDED
    found = [house.admin.debates.get(each.id) for each in house.admin.debates.list(run=runs[0].id)]
    places = [(each.run.step, each.run.task, each.run.rollout) for each in found if each.run]
    assert len(places) == len(set(places)) == 4 * BATCH * SAMPLES
    for each in found:
        assert each.run is not None and each.result is not None
        first = "First thoughts." in each.result.transcript
        if each.run.step != recorded[0]:  # the thief may have come before what was said in this one was stored
            assert first == (each.run.step < recorded[0]), each.run
