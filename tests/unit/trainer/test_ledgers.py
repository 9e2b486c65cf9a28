"""What is counted in parts and by ranks adds up, also where not all of them met the same domains."""

from __future__ import annotations

from preceptor_trainer.asking import Asked, Heard
from preceptor_trainer.flow import Part, Taken, Times
from preceptor_trainer.ledgers import Share, counted, share_of


def share(*told: dict[str, float]) -> Share:
    parts = [
        Part(step=1, index=at, of=len(told), rows=[], heard=Heard(rows=[], wishes=[], answers={}, told=each))
        for at, each in enumerate(told)
    ]
    asked = Asked(slots={}, contexts=0, dropped=0, scored=0, stamped=0, masked=None)
    return share_of([], asked, Taken(parts=parts, times=Times()), 0, {"leaks": 1.0})


def test_feedback_that_was_shown_adds_up_over_parts_and_ranks() -> None:
    first = share({"feedback/maths": 2.0}, {"feedback/maths": 1.0, "feedback/letters": 0.0})
    second = share({"feedback/codes": 4.0}, {})
    assert counted([first, second]) == {
        "leaks": 2.0,
        "feedback/maths": 3.0,
        "feedback/letters": 0.0,
        "feedback/codes": 4.0,
    }
