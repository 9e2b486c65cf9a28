"""What a card says is what is checked, and a request is cut where it must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.errors import Invalid, TooLarge
from preceptor.frames import encode_request
from preceptor.limits import check_fits
from preceptor.split import split
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Card, Limits, Support, TokenizerCard


def card(**limits: int) -> Card:
    known = {"max_tokens": 20, "max_batch_tokens": 60, "max_k": 4, "max_body_bytes": 1 << 20, **limits}
    return Card(
        teacher="t",
        model="m",
        weights_version=0,
        engine="e",
        device="cpu",
        dtype="float32",
        tokenizer=TokenizerCard(fingerprint="sha256:" + "0" * 64, vocab_size=10),
        limits=Limits(**known),
        supports=(Support.SAMPLED, Support.TOPK, Support.IDS),
    )


def asked(context: int = 5, completions: tuple[int, ...] = (3, 4), **more: Any) -> ScoreRequest:
    fields: dict[str, Any] = {
        "contexts": [np.ones(context, dtype=np.int32)],
        "completions": [np.ones(length, dtype=np.int32) for length in completions],
        "context_of": np.zeros(len(completions), dtype=np.int32),
        "support": Support.SAMPLED,
        **more,
    }
    return ScoreRequest(**fields)


def test_what_fits_passes() -> None:
    check_fits(asked(), card())
    check_fits(asked(completions=()), card())


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (asked(support=Support.FULL), Invalid, "it offers sampled, topk, ids"),
        (asked(support=Support.TOPK, k=5), Invalid, "k: 5 ids per position are more than this teacher's 4"),
        (
            asked(support=Support.IDS, candidate_ids=np.tile(np.arange(5, dtype=np.int32), (7, 1))),
            Invalid,
            "candidate_ids: 5 ids",
        ),
        (asked(support=Support.IDS, candidate_ids=np.full((7, 1), 10, dtype=np.int32)), Invalid, "ends at 9"),
        (asked(contexts=[np.array([10], dtype=np.int32)]), Invalid, "contexts: entry 0 holds the id 10"),
        (asked(context=17), Invalid, "with completion 1 21; this teacher reads 20"),
        (asked(context=21, completions=()), Invalid, "entry 0 has 21 tokens"),
        (asked(context=10, completions=(5, 5, 5, 5, 5)), TooLarge, "makes 75 tokens"),
    ],
)
def test_what_does_not_fit_is_said_with_the_numbers(request_: ScoreRequest, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        check_fits(request_, card())


@given(st.data())
def test_parts_fit_and_are_the_whole(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 10), min_size=1, max_size=4))
    contexts = [np.full(length, index, dtype=np.int32) for index, length in enumerate(lengths)]
    completions = [np.full(length, 7, dtype=np.int32) for length in data.draw(st.lists(st.integers(0, 8), max_size=12))]
    context_of = np.array([data.draw(st.integers(0, len(contexts) - 1)) for _ in completions], dtype=np.int32)
    total = sum(map(len, completions))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=np.bool_)
    request = ScoreRequest(
        contexts=contexts, completions=completions, context_of=context_of, support=Support.SAMPLED, position_mask=mask
    )
    limits = card(max_batch_tokens=data.draw(st.sampled_from([18, 40])), max_body_bytes=8192 + 130).limits
    parts = split(request, limits)
    for part in parts:
        assert part.tokens <= limits.max_batch_tokens and len(encode_request(part)) <= limits.max_body_bytes
        assert len(parts) == 1 or len(part.completions)
    whole = [
        (part.contexts[context].tolist(), completion.tolist())
        for part in parts
        for completion, context in zip(part.completions, part.context_of, strict=True)
    ]
    assert whole == [
        (contexts[context].tolist(), completion.tolist())
        for completion, context in zip(completions, context_of, strict=True)
    ]
    masks = [part.position_mask for part in parts if part.position_mask is not None]
    np.testing.assert_array_equal(np.concatenate(masks), mask)


def test_what_fits_is_not_touched() -> None:
    request = asked()
    assert split(request, card().limits) == [request]


def test_a_completion_that_fits_nowhere_is_named() -> None:
    with pytest.raises(TooLarge, match="entry 1 alone makes 65 tokens"):
        split(asked(context=5, completions=(3, 60)), card().limits)
