"""What ranks tell one another is the same value there, to the bit and by its type; what has no such form is refused.

That it passes between real processes is a part of `ranked`, which every test of several ranks starts.
"""

from __future__ import annotations

import math
import struct
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from preceptor.wire.runs import TeacherLedger
from preceptor.wire.skills import Moments, SkillUse
from preceptor_trainer.diagnostics import SUMS, Sums
from preceptor_trainer.loop import Signal
from preceptor_trainer.ranks import Ranks, decoded, encoded
from preceptor_trainer.views import Verdict

FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
PICKLED = b"\x80\x04]\x94G?\xf0\x00\x00\x00\x00\x00\x00a."
"""The list of a 1.0."""
NAMES = st.dictionaries(st.text(max_size=5), FLOATS, max_size=3)


def bits(value: float) -> bytes:
    """A NaN's payload is nobody's."""
    return b"nan" if math.isnan(value) else struct.pack("d", value)


@given(st.lists(FLOATS))
def test_floats_come_back_to_the_bit(values: list[float]) -> None:
    back = decoded(encoded(values), TypeAdapter(list[float]))
    assert [bits(each) for each in back] == [bits(each) for each in values]


@given(st.dictionaries(st.integers(), st.tuples(st.integers(), st.none() | st.text(), st.sampled_from(Signal))))
def test_so_do_whole_numbers_texts_tuples_and_enums(values: dict[int, tuple[int, str | None, Signal]]) -> None:
    back = decoded(encoded(values), TypeAdapter(dict[int, tuple[int, str | None, Signal]]))
    assert back == values
    assert all(type(each) is tuple and type(each[2]) is Signal for each in back.values())


@given(st.builds(Sums, st.integers(0, 2**40), FLOATS, NAMES, NAMES, NAMES))
def test_sums_go_on_adding_up(sums: Sums) -> None:
    back = decoded(encoded(sums), SUMS)
    assert repr(dict(back.values)) == repr(dict(sums.values)) and repr(back.most) == repr(sums.most)
    assert (back.tokens, bits(back.loss)) == (sums.tokens, bits(sums.loss))
    back.merge(sums)
    assert "new" not in back.values and back.values["new"] == 0.0, "it counts names that it has not met"


@given(FLOATS)
def test_what_is_on_the_wire_elsewhere_is_so_here(value: float) -> None:
    """These write NaN as a text of their own, inside values that do not."""
    told = {"mine": [TeacherLedger(requests=2, seconds=value)]}
    (back,) = decoded(encoded(told), TypeAdapter(dict[str, list[TeacherLedger]]))["mine"]
    assert bits(back.seconds) == bits(value) and back.requests == 2
    use = SkillUse(number=1, used=1, support_right=Moments(n=2, total=0.1 + 0.2, squares=0.1 + 0.2))
    assert decoded(encoded([use]), TypeAdapter(list[SkillUse])) == [use]


@pytest.mark.parametrize("told", [b"not JSON", PICKLED, b'["1.0.0"]', b"{}", b"[null]", b"[1.0", b""])
def test_what_is_of_another_kind_is_refused(told: bytes) -> None:
    with pytest.raises(ValidationError):
        decoded(told, TypeAdapter(list[float]))


@pytest.mark.parametrize("value", [torch.zeros(2), object(), lambda: None, ValueError("why")])
def test_what_has_no_form_of_its_own_is_not_sent(value: Any) -> None:
    with pytest.raises(PydanticSerializationError, match=f"of a {type(value).__name__}"):
        encoded({"told": value})


def test_what_numpy_computed_is_a_number_like_others() -> None:
    told = Verdict(reward=cast(float, np.float32(0.1)), correct=cast(bool, np.bool_(True)))
    assert decoded(encoded([told]), TypeAdapter(list[Verdict])) == [
        Verdict(reward=float(np.float32(0.1)), correct=True)
    ]


def test_one_that_is_alone_hears_itself() -> None:
    kind, mine = TypeAdapter(list[int]), [1, 2]
    assert Ranks().every(mine, kind) == [mine] and Ranks().told(mine, kind) is mine
    assert Ranks().every_tensor({"a": torch.ones(1)}) == [{"a": torch.ones(1)}]
