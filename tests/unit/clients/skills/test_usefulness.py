"""Lifts against published figures, and who has to leave a bank."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from preceptor.skills.usefulness import evicted, harmful, outcome_lift, support_lift, t95, wilson
from preceptor.wire.skills import Lift, Moments, Usefulness


def moments(values: list[float]) -> Moments:
    return Moments(n=len(values), total=sum(values), squares=sum(each**2 for each in values))


def lift(low: float, high: float) -> Lift:
    return Lift(mean=(low + high) / 2, low=low, high=high, n=10)


def test_outcome_lift_is_newcombes():
    """His table II, method 10: 56/70 - 48/80 is 0.2000 [0.0524, 0.3339]; 9/10 - 3/10 is 0.6000 [0.1705, 0.8090]."""
    for counts, expected in (((70, 56, 80, 48), (0.2, 0.0524, 0.3339)), ((10, 9, 10, 3), (0.6, 0.1705, 0.8090))):
        found = outcome_lift(*counts)
        assert found is not None and found.n == counts[0] + counts[2]
        assert (found.mean, found.low, found.high) == pytest.approx(expected, abs=5e-5)
    zero = outcome_lift(10, 0, 20, 0)
    assert zero is not None and (zero.low, zero.high) == pytest.approx((-0.1611, 0.2775), abs=5e-5)
    assert outcome_lift(0, 0, 20, 5) is None and outcome_lift(20, 5, 0, 0) is None
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == pytest.approx(1.0)


def test_support_lift_covers_the_truth_as_often_as_it_says():
    rng, hits, rounds = np.random.default_rng(0), 0, 2000
    for _ in range(rounds):
        right, wrong = rng.normal(0.3, 1.0, 6), rng.normal(0.0, 0.4, 9)
        found = support_lift(moments(right.tolist()), moments(wrong.tolist()))
        assert found is not None
        hits += found.low <= 0.3 <= found.high
    assert 0.935 < hits / rounds < 0.965


def test_support_lift_of_few_or_of_equal_numbers():
    assert support_lift(moments([1, 2]), moments([0, 0, 0])) is None
    same = support_lift(moments([1, 1, 1]), moments([0, 0, 0]))
    assert same is not None and (same.low, same.mean, same.high) == (1.0, 1.0, 1.0)
    for freedom, expected in ((2, 4.303), (5, 2.571), (30, 2.042), (1e9, 1.960)):
        assert t95(freedom) == pytest.approx(expected, rel=0.04)
    with pytest.raises(ValidationError, match="no 2 numbers have the sum 4"):
        Moments(n=2, total=4, squares=1)


def test_who_leaves():
    measured = {"little": lift(-0.1, 0.05), "much": lift(0.2, 0.4), "harm": lift(-0.5, -0.1)}
    held = [
        (1, Usefulness(used=5)),
        (2, Usefulness(outcome=measured["much"])),
        (3, Usefulness(outcome=measured["little"])),
        (4, Usefulness(outcome=measured["harm"])),
        (5, Usefulness(used=2)),
        (6, Usefulness(used=2, support=measured["little"])),
    ]
    assert harmful(held[3][1]) and not harmful(held[5][1])
    assert evicted(held, None) == [4]
    assert evicted(held, 5) == [4]
    assert evicted(held, 2) == [4, 3, 2, 6], "little, much, then support decides between those without an outcome"
    assert evicted(held, 1) == [4, 3, 2, 6, 5], "then the one that was used least"
    assert evicted([(number, Usefulness()) for number in (3, 1, 2)], 1) == [1, 2]
    assert not math.isnan(t95(1.0))
