"""Who is reliably better: a probability, held against closed forms and against what must be so whatever was seen."""

from __future__ import annotations

from math import exp, lgamma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.wire.pairs import Outcomes
from preceptor_trainer.standing import WHOLE, Seen, Standing, Standings, above, domain_of

UNIFORM = (1.0, 1.0)
counts = st.integers(0, 300)


def exact(one: Seen, other: Seen) -> float:
    """P(p > q) for whole counts and a uniform prior: the sum of Cook (2003) over the successes of p."""
    a, b = int(one.right) + 1, int(one.wrong) + 1
    c, d = int(other.right) + 1, int(other.wrong) + 1

    logs = [log_beta(c + i, b + d) - log_beta(1 + i, b) - log_beta(c, d) for i in range(a)]
    return sum(exp(each) / (b + i) for i, each in enumerate(logs))


def log_beta(x: float, y: float) -> float:
    return lgamma(x) + lgamma(y) - lgamma(x + y)


@pytest.mark.parametrize("seen", [(3, 1, 1, 3), (0, 0, 5, 5), (20, 4, 15, 9), (90, 10, 80, 20), (0, 7, 3, 3)])
def test_the_probability_is_the_closed_form(seen: tuple[int, int, int, int]) -> None:
    one, other = Seen(seen[0], seen[1]), Seen(seen[2], seen[3])
    assert above(one, other, UNIFORM) == pytest.approx(exact(one, other), abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(counts, counts, counts, counts)
def test_one_is_above_the_other_or_the_other_above_it(a: int, b: int, c: int, d: int) -> None:
    one, other = Seen(a, b), Seen(c, d)
    assert above(one, other, UNIFORM) + above(other, one, UNIFORM) == pytest.approx(1.0, abs=1e-9)
    assert 0.0 <= above(one, other, UNIFORM) <= 1.0


@settings(max_examples=60, deadline=None)
@given(counts, counts, counts, counts, st.floats(0.0, 0.5))
def test_more_is_asked_for_with_a_margin_and_less_is_sure_with_a_failure_more(
    a: int, b: int, c: int, d: int, margin: float
) -> None:
    one, other = Seen(a, b), Seen(c, d)
    plain = above(one, other, UNIFORM)
    assert above(one, other, UNIFORM, margin) <= plain + 1e-9
    assert above(Seen(a, b + 1), other, UNIFORM) <= plain + 1e-9
    assert above(Seen(a + 1, b), other, UNIFORM) >= plain - 1e-9


def test_nobody_is_sure_with_nothing_seen_and_a_prior_has_to_be_overcome() -> None:
    assert above(Seen(), Seen(), UNIFORM) == pytest.approx(0.5)
    peer, own = Seen(4, 0), Seen(0, 4)
    assert above(peer, own, UNIFORM) > 0.95 > above(peer, own, (20.0, 20.0))
    assert Seen(3, 1).rate(UNIFORM) == pytest.approx(4 / 6)


def test_what_is_old_counts_half_after_as_many_as_the_memory_holds() -> None:
    seen = Seen(80, 20).then(Outcomes(right=0, wrong=100), memory=100)
    assert (seen.right, seen.wrong) == (40, 110)


def test_standings_keep_the_start_and_follow_the_present() -> None:
    standings = Standings(memory=10)
    for right in (9, 5, 1):
        standings.own({"maths": Outcomes(right=right, wrong=10 - right)})
        standings.peer({"maths": Outcomes(right=10 - right, wrong=right), "letters": Outcomes()})
    now = standings.now()
    assert set(now) == {"maths"}, "a domain of which nothing was seen is unknown"
    maths = now["maths"]
    assert (maths.own_start.right, maths.peer_start.right) == (9, 1)
    assert maths.began_better(UNIFORM, 0.0) > 0.99
    assert maths.own.rate(UNIFORM) < 0.4 < maths.peer.rate(UNIFORM)
    assert maths.peer_is_better(UNIFORM, 0.0) > 0.8


def test_a_pair_that_says_who_teaches_what_hears_nobody_else() -> None:
    better = {"maths": Outcomes(right=50), "letters": Outcomes(right=50)}
    worse = {"maths": Outcomes(wrong=50), "letters": Outcomes(wrong=50)}
    standings = Standings(memory=100, teaches=("letters",), peer_teaches=("maths",))
    standings.own(worse)
    standings.peer(better)
    now = standings.now()
    assert now["maths"].peer_is_better(UNIFORM, 0.0) > 0.99
    assert now["letters"].peer_is_better(UNIFORM, 0.0) == 0.0
    assert (now["letters"].began_better(UNIFORM, 0.0), now["maths"].began_better(UNIFORM, 0.0)) == (1.0, 0.0)
    assert Standing(peer=Seen(50, 0), own=Seen(0, 50)).peer_is_better(UNIFORM, 0.0) > 0.99


def test_a_task_that_says_no_domain_is_of_the_whole() -> None:
    said = [{"domain": "maths"}, {"domain": 3}, {"domain": None}, {"domain": ""}, {}]
    assert [domain_of(each) for each in said] == ["maths", "3", WHOLE, WHOLE, WHOLE]
