"""Registration's look: an honest teacher passes; one that shifts, tempers, mixes or lies is found out, each by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor.errors import Corrupt, NotAuthorised, PreceptorError, Unreachable
from preceptor.probe import probe_teacher
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import Card, Outcome, Probe, Support
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.backends.hf import HfBackend
from tests.contract.teaching import KEY, URL, Spoilt, spoil, table, teaching
from tests.models import tiny_model_folder


def probe(backend: Backend) -> tuple[Card, Probe]:
    with teaching(backend) as taught:
        return probe_teacher(URL, KEY, transport=taught.bridge)


def failed(found: Probe) -> set[str]:
    return {check.name for check in found.checks if check.outcome is Outcome.FAILED}


def test_an_honest_table_passes() -> None:
    card, found = probe(table())
    assert found.ok and card.teacher == "teacher"
    assert found.latency_ms is not None and found.tokens_per_second is not None
    outcomes = {check.name: check.outcome for check in found.checks}
    assert outcomes.pop("tokenizer") is Outcome.UNVERIFIED
    assert set(outcomes.values()) == {Outcome.PASSED}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_honest_model_passes(tmp_path: Path, dtype: str) -> None:
    _, found = probe(HfBackend(tiny_model_folder(tmp_path), dtype=dtype))
    assert found.ok, found.checks


Change = Callable[[Numbers, ScoreRequest], Numbers]


def rolled(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """Every completion's entries moved by one place."""
    rows = np.split(numbers.logprob_T, numbers.offsets[1:-1])
    return spoil(numbers, logprob_T=np.concatenate([np.roll(row, 1) for row in rows]))


def tempered(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """As if sampled at temperature 2, roughly: what matters is that hidden states and head do not give it."""
    return spoil(numbers, logprob_T=numbers.logprob_T / 2)


def crowded(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """Numbers that depend on how many share the batch."""
    return spoil(numbers, logprob_T=numbers.logprob_T - 0.01 * len(request.completions))


def unnormalised(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """A tail that is always a half."""
    if numbers.tail_T is None:
        return numbers
    return spoil(numbers, tail_T=np.full_like(numbers.tail_T, np.log(0.5)))


def infinite(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """NaN everywhere."""
    return spoil(numbers, logprob_T=np.full_like(numbers.logprob_T, np.nan))


@pytest.mark.parametrize(
    ("change", "found_by"),
    [
        (rolled, "positions"),
        (tempered, "values"),
        (crowded, "batching"),
        (unnormalised, "normalised"),
        (infinite, "supports"),
    ],
)
def test_a_teacher_that_is_not_what_it_says_is_found_out(change: Change, found_by: str) -> None:
    _, found = probe(Spoilt(change))
    assert not found.ok and found_by in failed(found)


def test_a_vocabulary_that_is_not_as_stated_is_found_out() -> None:
    class Lying(httpx.BaseTransport):
        """A card with two ids fewer than the teacher takes."""

        def __init__(self, through: httpx.BaseTransport) -> None:
            self._through = through

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = self._through.handle_request(request)
            if request.url.path != "/v1/card":
                return answer
            answer.read()
            card = answer.json()
            card["tokenizer"]["vocab_size"] -= 2
            return httpx.Response(200, json=card)

    with teaching(table()) as taught:
        _, found = probe_teacher(URL, KEY, transport=Lying(taught.bridge))
    assert "vocabulary" in failed(found)


def test_without_full_what_nobody_can_tell_is_unverified() -> None:
    backend = table()
    backend.about = replace(backend.about, supports=(Support.SAMPLED,), head=None)
    _, found = probe(backend)
    outcomes = {check.name: check.outcome for check in found.checks}
    assert found.ok
    assert {outcomes[name] for name in ("values", "head", "normalised")} == {Outcome.UNVERIFIED}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda request: httpx.Response(200, text="<html>"), Corrupt),
        (lambda request: httpx.Response(200, json={"protocol": "1"}), Corrupt),
        (lambda request: httpx.Response(200, content=b"x" * (2 << 20)), PreceptorError),
        (lambda request: httpx.Response(307, headers={"Location": "http://169.254.169.254/"}), PreceptorError),
        (lambda request: httpx.Response(401), NotAuthorised),
    ],
)
def test_what_is_not_a_teacher_has_no_card(answer: Any, error: type[PreceptorError]) -> None:
    with pytest.raises(error):
        probe_teacher(URL, None, transport=httpx.MockTransport(answer))


def test_nobody_there_is_said() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unreachable, match="No answer from the teacher"):
        probe_teacher(URL, None, transport=httpx.MockTransport(refuse))
