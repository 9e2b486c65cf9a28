"""The errors: as the docstring draws them, and as they travel."""

from __future__ import annotations

import pickle  # noqa: TID251  a user's process pool does that to them
import re

import pytest

import preceptor
from preceptor import errors
from preceptor.errors import BadScores, Overloaded, PreceptorError, TeacherError
from preceptor.sse import Frame, frames


def every(kind: type[PreceptorError] = PreceptorError) -> list[type[PreceptorError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every(child))]


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"^ *[ │├└─]*([A-Z]\w+)", (errors.__doc__ or "").partition("Every error")[0], re.MULTILINE)
    ours = [kind for kind in every() if kind.__module__ == errors.__name__]
    assert [name for name in drawn if name != "What"] == [kind.__name__ for kind in ours]


def test_public_names_are_sorted_and_there():
    assert sorted(preceptor.__all__) == preceptor.__all__
    assert all(hasattr(preceptor, name) for name in preceptor.__all__)
    public = {kind.__name__ for kind in every() if kind.__module__ == errors.__name__}
    assert public <= set(preceptor.__all__)


def test_an_error_is_its_detail_and_its_remedy():
    error = BadScores("It said NaN.", teacher="t", field="logprob", remedy="Restart it.")
    assert str(error) == "It said NaN. Restart it."
    assert error.problem.type == "/problems/bad-scores"
    assert (error.problem.field, error.problem.status, error.teacher) == ("logprob", 502, "t")


@pytest.mark.parametrize("kind", [kind for kind in every() if kind.__module__ == errors.__name__])
def test_errors_survive_pickling(kind: type[PreceptorError]):
    more = {"teacher": "t"} if issubclass(kind, TeacherError) else {}
    error = kind("It is so.", field="f", remedy="Do that.", **more)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.problem, again.__dict__) == (str(error), error.problem, error.__dict__)


def test_what_the_other_side_asked_for_survives_pickling():
    assert pickle.loads(pickle.dumps(Overloaded("Busy.", retry_after=3.0))).retry_after == 3.0


def test_frames_of_a_stream():
    lines = ["id: 1", "event: step", "data: a", "", ": still here", "", "data: b", "data:c", "", "id: 2", "data: cut"]
    assert list(frames(lines)) == [
        Frame(event="step", data="a", id="1"),
        Frame(event="message", data="b\nc", id="1"),
    ]
