"""Wishes that must be refused, and what they are about."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.errors import Invalid
from tests.contract.conftest import House
from tests.contract.doubles import write_rows

NOBODY = "sha256:" + "0" * 64
ROWS = [{"prompt": f"Spell word{n} backward.", "answer": f"{n}", "reference": f"It is {n}."} for n in range(300)]


def refused(house: House, **changes: Any) -> Invalid:
    """The error of a wish, after making sure that it left nothing behind."""
    wish = house.wish(**changes)
    with pytest.raises(Invalid) as caught:
        house.admin.runs.start(wish)
    assert list(house.admin.runs.list()) == []
    assert house.queue.sent == []
    detail = caught.value.problem.detail
    assert detail.endswith("."), detail
    assert "\n" not in detail
    return caught.value


def dataset(house: House, rows: list[dict[str, Any]], name: str = "rows") -> str:
    return house.admin.artifacts.push(write_rows(house.tmp / name / "train.jsonl", rows), "dataset", name)


def caught(house: House, **changes: Any) -> Invalid:
    """The error of a wish in a house that has runs."""
    with pytest.raises(Invalid) as found:
        house.run(**changes)
    return found.value
