"""Whether what answers is the teacher that the run was submitted against: tokenizer, model, a frozen one's weights."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.errors import TeacherRefused
from preceptor.same import check_same
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.teachers import Card, Limits, Support, TokenizerCard

ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def card(**more: Any) -> Card:
    fields: dict[str, Any] = {
        "teacher": "math",
        "model": "tiny",
        "weights_version": 0,
        "weights_hash": ONE,
        "engine": "test 1",
        "device": "cpu",
        "dtype": "float32",
        "tokenizer": TokenizerCard(fingerprint=ONE, vocab_size=64),
        "limits": Limits(max_tokens=16, max_batch_tokens=32, max_k=3, max_body_bytes=2**20),
        "supports": (Support.SAMPLED,),
    }
    return Card(**{**fields, **more})


def endpoint(known: Card, replicas: int = 0) -> TeacherEndpoint:
    further = tuple(ReplicaAddress(url=f"http://replica-{n}") for n in range(replicas))
    return TeacherEndpoint(name="math", url="http://first", replicas=further, card=known)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"tokenizer": TokenizerCard(fingerprint=OTHER, vocab_size=64)}, "now has the tokenizer sha256:2"),
        ({"tokenizer": TokenizerCard(fingerprint=ONE, vocab_size=65)}, "65 ids"),
        ({"model": "large"}, "now runs the model 'large'; the run was submitted against 'tiny'"),
        ({"weights_hash": OTHER}, "now has the weights sha256:2"),
    ],
)
def test_another_teacher_is_refused_with_what_it_is(found: dict[str, Any], why: str) -> None:
    with pytest.raises(TeacherRefused, match=why) as caught:
        check_same(endpoint(card()), card(**found), "http://first")
    assert caught.value.teacher == "math" and caught.value.problem.remedy


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"engine": "test 2"},
        {"weights_version": 1, "weights_hash": OTHER},
        {"weights_hash": None},
        {"moves": True, "weights_hash": OTHER},
    ],
    ids=["the same", "another engine", "newer weights", "weights it does not name", "weights that move"],
)
def test_what_may_change_under_a_run_may(found: dict[str, Any]) -> None:
    check_same(endpoint(card()), card(**found), "http://first")


def test_one_of_several_endpoints_is_named() -> None:
    with pytest.raises(TeacherRefused, match=r"Teacher 'math' at http://replica-0 now runs"):
        check_same(endpoint(card(), replicas=1), card(model="large"), "http://replica-0")
