"""What a coefficient is at which step."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from preceptor_trainer.parts.schedules import Linear, Staircase


def test_a_line_ends_where_it_says() -> None:
    line = Linear(start=1.0, end=0.0, steps=4)
    assert [line.at(step) for step in (0, 1, 2, 5, 99)] == [1.0, 1.0, 0.75, 0.0, 0.0]


def test_a_staircase_goes_up_after_every_stage_as_far_as_it_may() -> None:
    stairs = Staircase(start=1.0, rise=2.0, every=3, most=4.0)
    assert [stairs.at(step) for step in (0, 1, 3, 4, 7, 99)] == [1.0, 1.0, 1.0, 3.0, 4.0, 4.0]


def test_a_staircase_goes_down_as_far_as_it_may() -> None:
    stairs = Staircase(start=1.0, rise=-0.5, every=1, least=0.0)
    assert [stairs.at(step) for step in (1, 2, 3, 4)] == [1.0, 0.5, 0.0, 0.0]


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"most: 0\.0 is below least, 1\.0"):
        Staircase(start=1.0, rise=1.0, every=1, least=1.0, most=0.0)
