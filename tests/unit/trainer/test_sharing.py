"""Rollouts come back with the very task that they were written for, dates and all, which was never sent."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from preceptor_trainer.batch import Row
from preceptor_trainer.ledgers import SHARE, Share
from preceptor_trainer.ranks import Ranks, decoded, encoded
from preceptor_trainer.sharing import Sharing
from preceptor_trainer.views import Message, Task, Verdict


def task(number: int, **columns: object) -> Task:
    return Task(id=f"q{number}", messages=(Message(role="user", content=f"{number}?"),), columns=columns)


TASKS = [task(0, on=date(2026, 1, 2), pairs=[(1,), (2, 3)]), task(1), task(0, price=Decimal("0.1")), task(2)]
"""The first question is asked twice, with different rows behind it."""


def row(of: Task, index: int, verdict: Verdict | None = None) -> Row:
    return Row(
        task=of,
        index=index,
        prompt_ids=(1, 2),
        completion_ids=(3, 4, 5),
        logprobs=(-0.1, float("-inf"), -1e-300) if index else None,
        text="a\x00é\u2028",
        finished=not index,
        weights_version=7,
        verdict=verdict,
    )


def share(sharing: Sharing, rows: list[Row]) -> Share:
    told = Share(
        rows=sharing.written(3, rows),
        contexts=1,
        scored=1,
        stamped=0,
        masked=None,
        unrouted=0,
        debates=(),
        teachers={},
        learned=9,
        counts={"leaks": float("nan")},
    )
    return decoded(encoded(told), SHARE)


def test_every_rank_hears_of_every_rollout_and_finds_its_task() -> None:
    asked: list[int] = []

    def draw(step: int) -> list[Task]:
        asked.append(step)
        return TASKS

    ranks = [Sharing(draw, Ranks(rank, 2)) for rank in range(2)]
    mine = [each.mine(3) for each in ranks]
    assert sorted(map(id, mine[0] + mine[1])) == sorted(map(id, TASKS))
    verdicts = [Verdict(reward=float("nan"), correct=False, feedback="no"), None]
    rows = [[row(each, at, verdicts[at]) for each in tasks for at in range(2)] for tasks in mine]
    shares = [share(*each) for each in zip(ranks, rows, strict=True)]
    assert ranks[0].all(3) is TASKS
    for each in ranks:
        back = each.done(3, [one for told in shares for one in told.rows])
        assert [one.task for one in back] == [one.task for own in rows for one in own]
        assert all(one.task is other.task for one, other in zip(back, rows[0] + rows[1], strict=True))
        assert repr(back) == repr(rows[0] + rows[1]), "not a bit is another, nor a tuple a list"
    assert asked == [3, 3], "nobody draws twice"


def test_a_task_that_was_drawn_again_meanwhile_is_found_by_its_question() -> None:
    sharing = Sharing(lambda step: [task(1), task(2)], Ranks())
    before = sharing.mine(3)
    sharing.mine(3)
    (back,) = sharing.done(3, sharing.written(3, [row(before[1], 0)]))
    assert back.task == before[1]
