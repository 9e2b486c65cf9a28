"""Accuracy and its intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_trainer.evaluate import gain_interval, half_width


def test_the_interval_of_a_share_is_wilson_s() -> None:
    assert half_width(100, 200) == pytest.approx(0.0686, abs=1e-3)
    assert half_width(0, 200) > 0
    assert half_width(200, 200) == pytest.approx(half_width(0, 200))


@given(hits=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_gain_is_inside_its_interval_and_flips_with_its_sign(hits: list[tuple[bool, bool]]) -> None:
    before, after = [b for b, _ in hits], [a for _, a in hits]
    low, high = gain_interval(before, after)
    gain = (sum(after) - sum(before)) / len(hits)
    assert low <= gain <= high
    assert gain_interval(after, before) == pytest.approx((-high, -low))


def test_pairing_makes_the_interval_narrow_where_few_answers_changed() -> None:
    before = [True] * 50 + [False] * 50
    after = [True] * 50 + [True] * 5 + [False] * 45
    low, high = gain_interval(before, after)
    assert 0 < low < 0.05 < high < 0.1


def test_other_tasks_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same tasks before and after, not 2 and 1"):
        gain_interval([True, False], [True])
