"""Shares with their intervals, as examples show them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from examples.common import showing

GRID: showing.Grid = {
    "student": {"letters": [True] * 90 + [False] * 10, "maths": [True] * 100},
    "base": {"letters": [False] * 100, "maths": [True, False] * 50},
}


def shown(show: object) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120, color_system=None)
    assert callable(show)
    show(console)
    return out.getvalue()


def test_a_table_has_every_share_with_its_interval() -> None:
    lines = shown(lambda console: showing.table(console, "who knows what", GRID)).splitlines()
    assert lines[0].strip() == "who knows what" and lines[1].split() == ["letters,", "%", "maths,", "%"]
    assert "90.0 (82.6 to 94.5)" in lines[2] and "100.0 (96.3 to 100.0)" in lines[2]
    assert "0.0 (0.0 to 3.7)" in lines[3] and "50.0 (40.4 to 59.6)" in lines[3]


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (1, 300), (299, 300), (7, 9), (1, 1)])
def test_a_whisker_stays_in_its_frame_and_marks_all_three(right: int, n: int) -> None:
    drawn = showing.whisker([True] * right + [False] * (n - right))
    assert len(drawn) == showing.WIDTH and drawn.count("●") == 1
    assert set(drawn) <= set("·─├┤●")
    at = drawn.index("●")
    assert drawn[:at].strip("·├─") == "" and drawn[at + 1 :].strip("·┤─") == ""


def test_a_plot_has_a_line_for_every_share() -> None:
    text = shown(lambda console: showing.plot(console, GRID))
    assert text.count("●") == 4 and text.index("letters") < text.index("maths")


def test_a_difference_is_paired() -> None:
    interval = (0.0, 0.0)

    def show(console: Console) -> None:
        nonlocal interval
        interval = showing.difference(console, "student", GRID["base"]["letters"], GRID["student"]["letters"])

    assert "student: +90.0 points" in shown(show)
    assert 0.84 < interval[0] < 0.9 < interval[1] < 0.96
    with pytest.raises(ValueError, match="same tasks"):
        showing.difference(Console(file=io.StringIO()), "x", [True], [True, False])


def test_numbers_for_programs() -> None:
    assert showing.numbers(GRID)["base"]["letters"] == {"share": 0.0, "ci95": [0.0, 0.037], "n": 100}
