"""What a skill is worth, as measured: two differences, each with its 95% interval.

- Lift in verified outcome: how much oftener rollouts were right that were written with the skill in sight, than
  rollouts of the same tasks without it. The interval is Newcombe's (Statistics in Medicine 17, 1998, method 10).
- Lift in teacher support: how much more a teacher that was shown the skill leans to right rollouts than to wrong ones;
  the support of one rollout is its mean log-ratio of teacher to student, in nats. The interval is Welch's.

What was not measured on both sides has no lift: None, never 0.
"""

from __future__ import annotations

from math import inf, sqrt

from preceptor.wire.skills import Lift, Moments, Usefulness

Z95 = 1.959963984540054
FEWEST = 3
"""Rollouts on each side below which a mean's spread is not estimated."""


def outcome_lift(shown: int, shown_right: int, plain: int, plain_right: int) -> Lift | None:
    """Lift in verified outcome, from counts of rollouts. None where one side has none."""
    if not shown or not plain:
        return None
    with_, without = shown_right / shown, plain_right / plain
    with_low, with_high = wilson(shown_right, shown)
    without_low, without_high = wilson(plain_right, plain)
    mean = with_ - without
    low = mean - sqrt((with_ - with_low) ** 2 + (without_high - without) ** 2)
    high = mean + sqrt((with_high - with_) ** 2 + (without - without_low) ** 2)
    return Lift(mean=mean, low=low, high=high, n=shown + plain)


def support_lift(right: Moments, wrong: Moments) -> Lift | None:
    """Lift in teacher support. None where one side has fewer than FEWEST rollouts."""
    if min(right.n, wrong.n) < FEWEST:
        return None
    mean = right.total / right.n - wrong.total / wrong.n
    squares = [_variance(each) / each.n for each in (right, wrong)]
    reach = 0.0
    if any(squares):
        freedom = sum(squares) ** 2 / sum(s**2 / (m.n - 1) for s, m in zip(squares, (right, wrong), strict=True))
        reach = t95(freedom) * sqrt(sum(squares))
    return Lift(mean=mean, low=mean - reach, high=mean + reach, n=right.n + wrong.n)


def wilson(right: int, n: int) -> tuple[float, float]:
    """95% interval of a share (Wilson)."""
    share, z2 = right / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def t95(freedom: float) -> float:
    """The two-sided 95% quantile of Student's t, to 4% at two degrees of freedom and closer above (Cornish-Fisher)."""
    z = Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def harmful(usefulness: Usefulness) -> bool:
    """Whether it was shown to make rollouts worse: all of the outcome's interval is below 0."""
    return usefulness.outcome is not None and usefulness.outcome.high < 0


def evicted(held: list[tuple[int, Usefulness]], cap: int | None) -> list[int]:
    """Which of the skills (number, usefulness) have to go, in the order in which they go.

    The harmful first, whatever the cap. Then, while there are more than `cap`, the one that can be worth least: the
    upper ends of the intervals are compared, so that what was never measured gets its chance before what was and did
    little; of equals the one that was used least goes, then the oldest.
    """
    going = sorted(number for number, usefulness in held if harmful(usefulness))
    left = [each for each in held if each[0] not in set(going)]
    if cap is not None and len(left) > cap:
        left.sort(key=lambda each: (*_at_most(each[1]), each[1].used, each[0]))
        going += [number for number, _ in left[: len(left) - cap]]
    return going


def _at_most(usefulness: Usefulness) -> tuple[float, float]:
    return tuple(inf if lift is None else lift.high for lift in (usefulness.outcome, usefulness.support))  # pyright: ignore[reportReturnType]


def _variance(moments: Moments) -> float:
    return max(0.0, moments.squares - moments.total**2 / moments.n) / (moments.n - 1)
