"""A stock SGLang server, by its unofficial recipe for CPUs: every support that the adapter offers, against hf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preceptor.adapters import Stock
from preceptor.adapters.sglang import SglangClient
from preceptor.errors import Invalid
from preceptor.probe import probe_teacher
from preceptor.wire.teachers import Outcome, Support, TeacherKind
from preceptor_services.teacher.backends import sglang
from preceptor_services.teacher.backends.sglang import SglangBackend
from tests.engines.agreement import agree, moves_as_the_hf_backend_does, ragged, reference
from tests.engines.conftest import SGLANG_PYTHON, SGLANG_URL, free_port

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not SGLANG_PYTHON, reason="no SGLang: scripts/test-engines installs and names it"),
]


@pytest.fixture(scope="module")
def sglang_url(stock: Stock, untied: Path) -> Iterator[str]:
    """A stock SGLang server of the shipped model, in float32."""
    if SGLANG_URL:
        yield SGLANG_URL
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = sglang.launch(untied, SGLANG_PYTHON, port, key="", device="cpu", dtype="float32")
    try:
        with SglangClient(url, None, stock, timeout=30.0) as looker:
            process.wait_until(looker.healthz, 600)
        yield url
    finally:
        process.close()


@pytest.fixture
def teacher(sglang_url: str, stock: Stock) -> Iterator[SglangClient]:
    with SglangClient(sglang_url, None, stock) as client:
        yield client


def test_the_card_states_what_was_found_out(teacher: SglangClient) -> None:
    card = teacher.card()
    assert card.engine.startswith("sglang 0.")
    assert card.supports == (Support.SAMPLED, Support.TOPK)
    assert (card.device, card.dtype, card.limits.max_k, card.limits.max_tokens) == ("cpu", "float32", 277, 1023)


@pytest.mark.parametrize(("support", "k"), [(Support.SAMPLED, 0), (Support.TOPK, 1), (Support.TOPK, 20)])
@pytest.mark.parametrize("masked", [False, True])
def test_scores_are_the_hf_backends(
    teacher: SglangClient, untied: Path, support: Support, k: int, masked: bool
) -> None:
    request = ragged(support, k, masked=masked)
    agree(teacher.score(request), reference(untied, request))
    agree(teacher.score(request), reference(untied, request))  # again: its cache holds these sequences now


def test_the_probe_finds_nothing_wrong_with_it(sglang_url: str, stock: Stock) -> None:
    _, probe = probe_teacher(sglang_url, None, TeacherKind.SGLANG, stock)
    assert probe.ok, [check for check in probe.checks if check.outcome is Outcome.FAILED]
    found = {check.name: check.outcome for check in probe.checks}
    passed = {"latency", "supports", "positions", "batching", "normalised", "values", "tokenizer"}
    assert {name for name, outcome in found.items() if outcome is Outcome.PASSED} >= passed


def test_what_it_does_not_have_is_refused_by_name(teacher: SglangClient) -> None:
    with pytest.raises(Invalid, match="temperature 1 only"):
        teacher.score(replace(ragged(Support.SAMPLED), temperature=0.7))


def test_weights_are_reloaded_in_place(sglang_url: str, stock: Stock, untied: Path, other_weights: Path) -> None:
    with SglangBackend(SglangClient(sglang_url, None, stock), untied, device="cpu", dtype="float32") as backend:
        moves_as_the_hf_backend_does(backend, untied, other_weights)
