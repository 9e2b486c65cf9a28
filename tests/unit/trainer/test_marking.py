"""Spans of a text are found in the tokens that write them, whatever the tokens are cut like."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from preceptor_trainer.marking import Marker, inside
from preceptor_trainer.model import Model, load_model
from tests.models import tiny_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))


def test_every_span_is_covered_by_its_tokens_and_by_no_other(model: Model) -> None:
    text = "it is 41, so there"
    ids: list[int] = model.tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > 3 and model.tokenizer.decode(ids) == text
    ends = [len(str(model.tokenizer.decode(ids[:end]))) for end in range(len(ids) + 1)]
    marker = Marker(Path(model.folder))
    for begin in range(len(text)):
        for end in range(begin + 1, len(text) + 1):
            reach = [one < end and other > begin for one, other in pairwise(ends)]
            assert marker.inside(ids, text, [(begin, end)]).tolist() == reach


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    text = "naïve 東"
    pieces = [bytes([each]) for each in text.encode()]
    for index, char in enumerate(text):
        (where,) = inside(pieces, text, [(index, index + 1)]).nonzero()
        assert len(where) == 1 and b"".join(pieces[: where[0] + 1]).decode() == text[: index + 1], char
    assert inside([b"\xe6", b"x"], "\ufffdx", [(0, 1)]).tolist() == [False, True], "what is no UTF-8 is one character"


def test_a_space_by_convention_is_no_part_of_the_text() -> None:
    pieces = [b" The", b" end"]
    assert inside(pieces, "The end", [(0, 3)], leads=True).tolist() == [True, False]
    assert inside(pieces, "The end", [(3, 4)], leads=True).tolist() == [False, True]
    assert inside(pieces, " The end", [(0, 1)], leads=True).tolist() == [True, False]
    assert inside([], "", [(0, 1)]).tolist() == []


def test_several_spans_add_up_and_special_tokens_write_nothing(model: Model) -> None:
    text = "abcd efgh"
    ids = [*model.tokenizer.encode(text, add_special_tokens=False), model.tokenizer.eos_token_id]
    marker = Marker(Path(model.folder))
    one, other, both = (marker.inside(ids, text, spans) for spans in ([(0, 1)], [(8, 9)], [(0, 1), (8, 9)]))
    assert (both == (one | other)).all() and not both[-1]
    assert not marker.inside(ids, text, [(0, len(text))])[-1]
