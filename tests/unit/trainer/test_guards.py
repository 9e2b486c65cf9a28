"""What is watched at every step: which metric, which side, how long, what is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from preceptor.wire.training import Guards
from preceptor_trainer.guards import Trip, repetition, survives, watch
from preceptor_trainer.loss import NonFiniteLoss
from tests.unit.trainer.toy import toy_rows


def guards(**each: Any) -> Guards:
    return Guards.model_validate(each)


def metrics(**changes: float) -> dict[str, float]:
    fine = {"loss": 1.0, "repetition": 0.1, "completion_length": 10.0, "student_entropy": 1.5, "reference/tail": 0.01}
    return {**fine, "reference/student_tail": 0.9, "reverse_kl_1/clipped_tokens": 0.2, **changes}


@pytest.mark.parametrize(
    ("guard", "settings", "bad", "value"),
    [
        ("repetition", {"threshold": 0.4}, {"repetition": 0.5}, 0.5),
        ("length", {"threshold": 2.0}, {"completion_length": 25.0}, 2.5),
        ("entropy", {"threshold": 0.2}, {"student_entropy": 0.1}, 0.1),
        ("tail", {"threshold": 0.3}, {"other/tail": 0.5}, 0.5),
        ("clip", {"threshold": 0.3}, {"forward_kl_0/clipped_tokens": 0.5}, 0.5),
    ],
)
def test_each_guard_trips_on_its_own_side(
    guard: str, settings: dict[str, float], bad: dict[str, float], value: float
) -> None:
    set_, streaks = guards(**{guard: {**settings, "action": "pause"}}), dict[str, int]()
    fine = metrics()
    assert watch(set_, fine, streaks, first_length=10.0) == []
    assert fine[f"guard/{guard}"] == 0.0
    wrong = metrics(**bad)
    (trip,) = watch(set_, wrong, streaks, first_length=10.0)
    assert (trip.guard, trip.value, trip.action) == (guard, value, "pause")
    assert wrong[f"guard/{guard}"] == 1.0


def test_a_clip_that_bites_is_told_of_without_being_asked() -> None:
    (trip,) = watch(guards(), metrics(**{"forward_kl/clipped_tokens": 0.4}), {}, 10.0)
    assert (trip.guard, trip.action, trip.threshold) == ("clip", "warn", 0.25)
    assert watch(guards(clip=None), metrics(**{"forward_kl/clipped_tokens": 0.4}), {}, 10.0) == []


@pytest.mark.parametrize("guard", [name for name in Guards.model_fields if name != "max_rollbacks"])
def test_whichever_guard_may_roll_back_the_run_knows_it(guard: str) -> None:
    assert guards(**{guard: "rollback" if guard == "nonfinite" else {"action": "rollback"}}).rolls_back
    assert not guards(**{guard: "pause" if guard == "nonfinite" else {"action": "pause"}}).rolls_back


def test_patience_counts_steps_in_a_row() -> None:
    set_, streaks = guards(entropy={"threshold": 0.2, "patience": 3, "action": "rollback"}), dict[str, int]()
    low = [0.1, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1]
    trips = [len(watch(set_, metrics(student_entropy=value), streaks, 10.0)) for value in low]
    assert trips == [0, 0, 0, 0, 0, 1, 1], "it acts as long as it lasts"


def test_a_warning_is_given_once_until_it_is_over() -> None:
    set_, streaks = guards(entropy={"threshold": 0.2}), dict[str, int]()
    low = [0.1, 0.1, 0.5, 0.1]
    assert [len(watch(set_, metrics(student_entropy=value), streaks, 10.0)) for value in low] == [1, 0, 0, 1]


def test_the_most_drastic_action_comes_first_and_nothing_is_read_that_is_not_there() -> None:
    set_ = guards(
        entropy={"threshold": 0.2}, repetition={"threshold": 0.2, "action": "rollback"}, tail={}, nonfinite="pause"
    )
    found = {"loss": float("nan"), "nonfinite": 1.0, "repetition": 0.9, "completion_length": 3.0}
    trips = watch(set_, found, {}, 3.0)
    assert [(trip.guard, trip.action) for trip in trips] == [("repetition", "rollback"), ("nonfinite", "pause")]
    assert "guard/tail" not in found and "guard/entropy" not in found


def test_a_note_says_what_was_found_where_and_what_was_done() -> None:
    note = Trip(guard="length", value=3.456, threshold=3.0, action="rollback").note(17)
    assert note["message"] == (
        "Guard length at step 17: 3.456, above 3; the weights are those of the last checkpoint again."
    )
    assert (note["guard"], note["step"], note["threshold"], note["action"]) == ("length", 17, 3.0, "rollback")
    nan = Trip(guard="nonfinite", value=float("nan"), threshold=None, action="warn").note(2)
    assert "a loss or gradient is not finite; the run goes on" in str(nan["message"]) and nan["value"] == "nan"


def test_repetition_is_the_share_of_four_grams_that_were_there_before() -> None:
    (row,) = toy_rows([1])
    loop = replace(row, completion_ids=(1, 2) * 4)
    assert repetition([loop]) == pytest.approx(1 - 2 / 5)
    assert repetition([row]) == 0.0, "too short to repeat anything"
    assert repetition([loop, loop]) == pytest.approx(1 - 2 / 5), "another rollout's tokens are not repetition"


def test_what_is_no_number_is_the_run_s_end_unless_somebody_watches() -> None:
    forgotten: list[bool] = []

    def learn() -> dict[str, float]:
        raise NonFiniteLoss("nan")

    with pytest.raises(NonFiniteLoss):
        survives(guards(), learn, lambda: forgotten.append(True))
    assert not forgotten
    found = survives(guards(nonfinite="warn"), learn, lambda: forgotten.append(True))
    assert found["nonfinite"] == 1.0 and found["loss"] != found["loss"] and found["learning_rate"] == 0.0
    assert forgotten == [True]
