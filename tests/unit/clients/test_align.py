"""Spans are what both tokenizers cut out: all of them, the smallest, and nothing that only one side knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.align import agreement, align, ends_of

lengths = st.lists(st.integers(1, 6), max_size=40)
"""Bytes per token."""


@st.composite
def two_readings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """One text cut in two ways, both to its end."""
    student = np.cumsum(draw(lengths), dtype=np.int64)
    size = int(student[-1]) if len(student) else 0
    if size == 0:
        return student, student
    cuts = draw(st.sets(st.integers(1, size), max_size=size))
    return student, np.array(sorted(cuts | {size}), dtype=np.int64)


def logprobs_for(ends: np.ndarray) -> np.ndarray:
    return np.random.default_rng(len(ends)).normal(-2, 1, len(ends)).astype(np.float32)


@given(two_readings())
def test_spans_partition_the_text(readings: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = readings
    spans = align(student, teacher)
    assert spans.masked == 0
    for of in (spans.student_T, spans.teacher_M):
        assert (np.diff(of) >= 0).all(), "in the order of the text"
        assert set(of.tolist()) == set(range(len(spans.ends_S))), "every span has a token on either side"


@given(two_readings())
def test_a_span_ends_where_both_sides_end_a_token_and_nowhere_else(readings: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = readings
    spans = align(student, teacher)
    assert spans.ends_S.tolist() == sorted(set(student.tolist()) & set(teacher.tolist()))
    for ends, of in ((student, spans.student_T), (teacher, spans.teacher_M)):
        for span, end in enumerate(spans.ends_S):
            assert ends[of == span][-1] == end, "the span's last token ends with it"
            inside = ends[of == span][:-1]
            other = teacher if ends is student else student
            assert not set(inside.tolist()) & set(other.tolist()), "minimal: no common boundary within"


@given(two_readings())
def test_a_span_s_log_probability_is_the_sum_of_the_teacher_s_tokens(readings: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = readings
    logprob_M = logprobs_for(teacher)
    spans = align(student, teacher)
    begin = 0
    for total, end in zip(spans.sums(logprob_M), spans.ends_S, strict=True):
        inside = (teacher > begin) & (teacher <= end)
        assert total == pytest.approx(float(logprob_M[inside].astype(np.float64).sum()), abs=1e-9)
        begin = int(end)
    spread_T = spans.spread(logprob_M)
    assert all(spread_T[t] == np.float32(spans.sums(logprob_M)[span]) for t, span in enumerate(spans.student_T))


@given(lengths)
def test_equal_tokenizers_give_the_plain_result_to_the_bit(sizes: list[int]) -> None:
    ends = np.cumsum(sizes, dtype=np.int64)
    logprob_M = logprobs_for(ends)
    spans = align(ends, ends)
    assert spans.student_T.tolist() == spans.teacher_M.tolist() == list(range(len(ends)))
    assert spans.spread(logprob_M).tobytes() == logprob_M.tobytes()


@given(two_readings(), st.data())
def test_cutting_the_text_anywhere_keeps_the_sums(readings: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    """A cut falls back to the last boundary that both know; the two halves say together what the whole says."""
    student, teacher = readings
    logprob_M = logprobs_for(teacher)
    whole = align(student, teacher)
    size = int(student[-1]) if len(student) else 0
    wanted = data.draw(st.integers(0, size))
    cut = int(max([0, *whole.ends_S[whole.ends_S <= wanted].tolist()]))
    left = align(student[student <= cut], teacher[teacher <= cut])
    right = align(student[student > cut] - cut, teacher[teacher > cut] - cut)
    halves = [*left.sums(logprob_M[teacher <= cut]), *right.sums(logprob_M[teacher > cut])]
    assert halves == pytest.approx(whole.sums(logprob_M).tolist())
    assert sum(halves) == pytest.approx(float(logprob_M.astype(np.float64).sum()))


@given(two_readings(), st.data())
def test_a_limit_masks_what_lies_beyond_it_and_changes_nothing_before(
    readings: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    student, teacher = readings
    limit = data.draw(st.integers(0, int(student[-1]) if len(student) else 0))
    whole, part = align(student, teacher), align(student, teacher, limit=limit)
    kept = len(part.ends_S)
    assert part.ends_S.tolist() == whole.ends_S[:kept].tolist()
    assert part.student_T.tolist() == [span if span < kept else -1 for span in whole.student_T.tolist()]
    assert not ((part.student_T >= 0) & (student > limit)).any()


def test_a_boundary_that_one_side_lacks_joins_tokens() -> None:
    spans = align([3, 5, 9], [4, 5, 7, 9])  # "abc de fghi" and "abcd e fg hi"
    assert spans.student_T.tolist() == [0, 0, 1]
    assert spans.teacher_M.tolist() == [0, 0, 1, 1]
    assert spans.sums([-1.0, -2.0, -0.5, -0.25]).tolist() == [-3.0, -0.75]
    assert spans.spread([-1.0, -2.0, -0.5, -0.25]).tolist() == [-3.0, -3.0, -0.75]


def test_what_one_side_has_beyond_the_other_is_masked() -> None:
    spans = align([2, 4, 6], [2, 3])
    assert spans.student_T.tolist() == [0, -1, -1] and spans.masked == 2
    assert spans.teacher_M.tolist() == [0, -1], "and the teacher's surplus is in no sum"
    assert spans.sums([-1.0, -7.0]).tolist() == [-1.0]


def test_a_span_that_is_wrong_is_taken_out_alone() -> None:
    spans = align([1, 2, 3], [1, 2, 3]).without(np.array([False, True, False]))
    assert spans.student_T.tolist() == [0, -1, 2]
    assert spans.spread([-1.0, -2.0, -3.0]).tolist() == [-1.0, 0.0, -3.0]
    assert spans.without(np.array([False, False, False])).masked == 1, "what is masked stays so"


def test_tokens_without_bytes_belong_to_their_neighbour() -> None:
    spans = align([0, 2, 2, 4], [2, 4])
    assert spans.student_T.tolist() == [0, 0, 0, 1]


def test_nothing_written_is_nothing_aligned() -> None:
    spans = align([], [])
    assert spans.masked == 0 and spans.sums([]).tolist() == [] and spans.spread([]).tolist() == []
    assert align([2], []).student_T.tolist() == [-1]


@pytest.mark.parametrize("ends", [[2, 1], [-1, 3], [[1, 2]]])
def test_ends_that_cannot_be_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="teacher_ends"):
        align([1], ends)


def test_scores_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="the teacher read 2 tokens"):
        align([1, 2], [1, 2]).sums([-1.0])


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_agreement_is_the_common_beginning(a: bytes, b: bytes) -> None:
    count = agreement(a, b)
    assert a[:count] == b[:count]
    assert count == min(len(a), len(b)) or a[count] != b[count]


def test_ends_of_pieces() -> None:
    assert ends_of([b"ab", b"", "é".encode()]).tolist() == [2, 2, 4]
    assert ends_of([]).tolist() == []
