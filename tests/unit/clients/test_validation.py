"""What pydantic finds wrong, as a field and a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from preceptor.validation import invalid
from preceptor.wire.debates import DebateTemplate
from preceptor.wire.skills import SkillsAdd

ASK = "{question} {debate} <argument> <confidence>"


@pytest.mark.parametrize(
    ("kind", "value", "field", "said"),
    [
        (DebateTemplate, {"ask": ASK}, "t.ask_sighted", "t.ask_sighted is missing."),
        (DebateTemplate, {"ask": ASK, "ask_sighted": "x"}, "t.ask_sighted", "t.ask_sighted: it must hold {question}."),
        (DebateTemplate, {"ask": ASK, "ask_sighted": ASK, "round": 2}, "t.round", "t.round: there is no such field."),
        (DebateTemplate, [], "t", "t: Input should be a valid dictionary or instance of DebateTemplate (got list)."),
        (SkillsAdd, {"skills": "one"}, "t.skills", "t.skills: Input should be a valid list (got 'one')."),
        (
            SkillsAdd,
            {"skills": [{}]},
            "t.skills.0",
            "t.skills.0: a skill needs a `skill` or a `mistake`; both are empty.",
        ),
    ],
)
def test_a_complaint_is_a_sentence_about_a_field(kind: Any, value: Any, field: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(value)
    error = invalid(caught.value.errors()[:1], prefix="t")
    assert (error.field, error.problem.detail) == (field, said)


def test_what_is_no_json_is_said_where_it_comes_from() -> None:
    with pytest.raises(ValidationError) as caught:
        DebateTemplate.model_validate_json("nothing")
    assert invalid(caught.value.errors(), whole="the file").problem.detail.startswith("The file is not JSON: ")
