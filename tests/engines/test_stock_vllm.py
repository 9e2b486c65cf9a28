"""A stock vLLM server, registered by URL: every support that the adapter offers, against the hf backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from preceptor.adapters import Stock
from preceptor.adapters.vllm import COMPLETIONS, TOKEN_IN, VllmClient
from preceptor.errors import Invalid, NotFound, PreceptorError
from preceptor.probe import probe_teacher
from preceptor.wire.score import Extra
from preceptor.wire.teachers import Outcome, Support, TeacherKind, Values
from tests.engines.agreement import agree, ragged, reference
from tests.engines.conftest import MODEL

pytestmark = pytest.mark.engines


def test_the_card_states_what_was_found_out(teacher: VllmClient) -> None:
    card = teacher.card()
    assert card.engine.startswith("vllm 0.")
    assert card.supports == (Support.SAMPLED, Support.TOPK), "ids needs the V2 model runner: a GPU build"
    assert (card.limits.max_tokens, card.limits.max_k) == (1023, 277)
    assert (card.teacher, card.model, card.values, card.head) == ("stock", "teacher", Values.RAW, None)


@pytest.mark.parametrize("path", [TOKEN_IN, COMPLETIONS])
@pytest.mark.parametrize(("support", "k"), [(Support.SAMPLED, 0), (Support.TOPK, 1), (Support.TOPK, 20)])
@pytest.mark.parametrize("masked", [False, True])
def test_scores_are_the_hf_backends(teacher: VllmClient, path: str, support: Support, k: int, masked: bool) -> None:
    request = ragged(support, k, masked=masked)
    teacher.card()
    teacher._path = path
    agree(teacher.score(request), reference(MODEL, request))


def test_the_whole_vocabulary_can_be_asked_for(teacher: VllmClient) -> None:
    request = ragged(Support.TOPK, 277, seed=1)
    scores = teacher.score(request)
    assert scores.tail_T is not None and scores.tail_T.max() < -10
    wanted = reference(MODEL, request)
    assert wanted.logprobs_TK is not None and scores.logprobs_TK is not None
    assert abs(scores.logprobs_TK - wanted.logprobs_TK).max() < 1e-3


def test_what_it_does_not_have_is_refused_by_name(teacher: VllmClient) -> None:
    asked = ragged(Support.SAMPLED)
    with pytest.raises(Invalid, match="temperature 1 only"):
        teacher.score(replace(asked, temperature=0.7))
    with pytest.raises(Invalid, match="no entropy"):
        teacher.score(replace(asked, extras=frozenset({Extra.ENTROPY})))
    with pytest.raises(Invalid, match="'full' is not offered"):
        teacher.score(replace(asked, support=Support.FULL))
    with pytest.raises(NotFound, match="gives no head"):
        teacher.head()


def test_the_probe_finds_nothing_wrong_with_it(vllm_url: str, stock: Stock) -> None:
    card, probe = probe_teacher(vllm_url, None, TeacherKind.VLLM, stock)
    found = {check.name: check.outcome for check in probe.checks}
    assert probe.ok, probe.checks
    passed = {"latency", "supports", "positions", "batching", "normalised", "values", "vocabulary", "tokenizer"}
    assert {name for name, outcome in found.items() if outcome is Outcome.PASSED} >= passed
    assert found["head"] is Outcome.UNVERIFIED and card.tokenizer.samples


def test_a_tokenizer_that_is_not_its_own_is_found(vllm_url: str, stock: Stock) -> None:
    assert stock.tokenizer is not None
    shifted = {text: id + 1 for text, id in stock.tokenizer.samples.items() if text.isalnum()}
    wrong = replace(stock, tokenizer=stock.tokenizer.model_copy(update={"samples": shifted}))
    _, probe = probe_teacher(vllm_url, None, TeacherKind.VLLM, wrong)
    assert [check.name for check in probe.checks if check.outcome is Outcome.FAILED] == ["tokenizer"]


def test_a_server_of_another_kind_is_no_teacher(vllm_url: str, stock: Stock) -> None:
    with pytest.raises(PreceptorError, match="not an SGLang server"):
        probe_teacher(vllm_url, None, TeacherKind.SGLANG, stock)
    with pytest.raises(PreceptorError, match="serves no 'other'; it serves teacher"):
        probe_teacher(vllm_url, None, TeacherKind.VLLM, replace(stock, model="other"))


def test_as_a_text_teacher_it_writes_and_scores_nothing(vllm_url: str) -> None:
    card, probe = probe_teacher(f"{vllm_url}/v1", None, TeacherKind.OPENAI, Stock(name="writer"))
    assert (card.supports, card.generates) == ((), True)
    assert probe.ok and probe.checks[0].outcome is Outcome.PASSED, probe.checks


def test_weights_are_reloaded_in_place(teacher: VllmClient, untied: Path, other_weights: Path) -> None:
    request = ragged(Support.TOPK, 4)
    before, after = reference(MODEL, request), reference(other_weights, request)
    assert abs(before.logprob_T - after.logprob_T).max() > 0.1
    try:
        teacher.reload_weights(str(other_weights))
        agree(teacher.score(request), after)
    finally:
        teacher.reload_weights(str(untied))
    agree(teacher.score(request), before)
