"""Where a run's time and traffic went, added up and told."""

from __future__ import annotations

import pytest

from preceptor.cli.ledger import show_ledger, taught_nothing
from preceptor.ledgers import added, total
from preceptor.wire.runs import Ledger, StepReport, TeacherLedger

URL = "http://127.0.0.1:1"


def step(number: int, **teacher: object) -> StepReport:
    return StepReport(
        step=number,
        metrics={"loss": 1.0, "seconds": 10.0},
        ledger=Ledger(
            seconds={"sample": 4.0, "score": 2.0, "learn": 5.0},
            idle={"learn/scores": 1.0, "sample/weights": 4.0},
            tokens={"prompt": 80, "prompt_read": 10, "completion": 30, "learned": 50},
            rollouts=8,
            teachers={"self": TeacherLedger.model_validate({"requests": 2, "tokens": 30, "seconds": 1.5, **teacher})},
        ),
    )


def test_ledgers_add_up() -> None:
    steps = [
        step(1, endpoints={URL: 2}, weights_versions=[1], bytes_received=1_500_000),
        step(2, endpoints={URL: 1, "http://127.0.0.1:2": 1}, weights_versions=[1, 2]),
    ]
    sum_ = total(each.ledger for each in steps)
    assert sum_.seconds == {"sample": 8.0, "score": 4.0, "learn": 10.0}
    assert sum_.idle == {"learn/scores": 2.0, "sample/weights": 8.0}
    assert sum_.rollouts == 16 and sum_.tokens["completion"] == 60
    mine = sum_.teachers["self"]
    assert (mine.requests, mine.seconds, mine.bytes_received) == (4, 3.0, 1_500_000)
    assert mine.endpoints == {URL: 3, "http://127.0.0.1:2": 1}
    assert mine.weights_versions == [1, 2]
    assert total([]) == Ledger()
    assert added([{"a": mine}, {"b": mine}, {"a": mine}])["a"].requests == 8


def test_people_are_told_stages_waits_and_teachers(capsys: pytest.CaptureFixture[str]) -> None:
    show_ledger([step(1, bytes_received=1_500_000), step(2, retries=3)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "2 steps in 20.0 s; stages overlap." in lines
    assert "sample 8.0 s 40.0% 80 10" in lines
    assert "learn 10.0 s 50.0% 100 10" in lines
    assert "sample weights 8.0 s 40.0%" in lines
    assert "learn scores 2.0 s 10.0%" in lines
    assert "requests 4" in lines and "bytes received 1.5 MB" in lines and "retries 3" in lines
    assert not any(line.startswith("hedges") for line in lines), "what is 0 everywhere is left out"


def test_who_joined_and_left_and_what_nobody_was_asked_about_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = step(1, joined=[URL]), step(2, left=["http://127.0.0.1:2"])
    other = other.model_copy(update={"ledger": other.ledger.model_copy(update={"unrouted": 3})})
    show_ledger([one, other])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["joined", URL] for line in lines)
    assert any(line.split() == ["left", "http://127.0.0.1:2"] for line in lines)
    assert "Routers gave 3 of the rollouts' contexts to no teacher: they have no opinion there." in lines
    show_ledger([one])
    assert "Routers" not in capsys.readouterr().out


def test_steps_that_came_to_nothing_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        each.model_copy(update={"metrics": {**each.metrics, "empty": float(each.step > 1)}})
        for each in map(step, (1, 2, 3))
    ]
    assert taught_nothing(steps[:1]) is None
    show_ledger(steps)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 3 steps had no token that counts and moved nothing (the first: step 2)." in said


def test_of_a_sampler_the_mismatch_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [step(1), step(2)]
    numbers = {"sampler_gap": 1e-3, "sampler_kl": 2e-6, "sampler_beyond": 0.25, "sampler_gap/largest": 0.9}
    sampled = [
        each.model_copy(
            update={
                "metrics": {**each.metrics, **numbers},
                "ledger": each.ledger.model_copy(
                    update={"teachers": {**each.ledger.teachers, "sampler": TeacherLedger(requests=1, tokens=30)}}
                ),
            }
        )
        for each in steps
    ]
    show_ledger(sampled)
    said = " ".join(capsys.readouterr().out.split())
    assert "mean gap 0.001 nats, at most 0.9, KL 2e-06, 25.0% of the tokens beyond a factor of 2" in said
    assert "score 4.0 s 20.0% 60 15" in said, "what a sampler wrote was not scored"
    show_ledger(steps)
    assert "mean gap" not in capsys.readouterr().out


def test_without_a_step_there_is_no_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    show_ledger([])
    assert "there is no ledger" in capsys.readouterr().out
