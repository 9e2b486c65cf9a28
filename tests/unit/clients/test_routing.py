"""Where a request goes: to whoever remembers its contexts, unless that one is much busier; the same way every time."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from preceptor.endpoint import TeacherClient
from preceptor.errors import Overloaded, Unreachable
from preceptor.replica import CONTEXTS_KEPT, Replica
from preceptor.routing import MUCH_BUSIER, Want, choose, takes
from preceptor.wire.common import Problem
from preceptor.wire.runs import ReplicaAddress
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Card, Limits, Support, TokenizerCard
from tests.clock import Clock


def replica(name: str, clock: Clock | None = None) -> Replica:
    silent = httpx.MockTransport(lambda request: httpx.Response(500))
    address = ReplicaAddress(url=f"http://{name}")
    return Replica(
        address,
        lambda at, transport: TeacherClient(at.url, transport=transport),
        transport=silent,
        clock=clock or Clock(),
    )


def want(*contexts: str, tokens: int = 100) -> Want:
    return Want(tokens=tokens, contexts=dict.fromkeys(contexts, tokens // max(len(contexts), 1)))


def test_what_nothing_else_decides_a_hash_does_and_all_get_their_share() -> None:
    replicas = [replica(name) for name in "abc"]
    chosen = [choose(replicas, want(f"context {n}")).url for n in range(300)]
    again = [choose([replica(name) for name in "cab"], want(f"context {n}")).url for n in range(300)]
    assert chosen == again, "another process, that was told of them in another order, asks the same"
    assert all(60 < chosen.count(f"http://{name}") < 140 for name in "abc")


def test_an_endpoint_that_leaves_moves_only_what_was_its_own() -> None:
    replicas = [replica(name) for name in "abc"]
    before = [choose(replicas, want(f"context {n}")).url for n in range(100)]
    after = [choose(replicas[:2], want(f"context {n}")).url for n in range(100)]
    assert all(one == other for one, other in zip(before, after, strict=True) if one != "http://c")


def test_the_least_loaded_is_asked_of_contexts_that_nobody_knows() -> None:
    one, other = replica("a"), replica("b")
    one.load = 1
    assert all(choose([one, other], want(f"context {n}")) is other for n in range(20))


def test_whoever_has_read_a_context_is_asked_about_it_unless_it_is_much_busier() -> None:
    one, other = replica("a"), replica("b")
    one.answered({"long": 90, "short": 10})
    other.answered({"short": 10})
    one.load = int(MUCH_BUSIER * 100)
    assert choose([one, other], want("long", "short")) is one
    assert choose([one, other], want("short")) is other, "both remember it"
    one.load += 1
    assert choose([one, other], want("long", "short")) is other


def test_only_the_contexts_that_were_read_last_are_thought_to_be_remembered() -> None:
    one = replica("a")
    for n in range(CONTEXTS_KEPT + 1):
        one.answered({f"context {n}": 1})
    assert one.remembered({"context 0": 5}) == 0 and one.remembered({"context 1": 5}) == 5


def test_an_endpoint_that_went_away_remembers_nothing() -> None:
    one = replica("a")
    one.answered({"context": 5})
    one.failed(Unreachable("gone"))
    assert one.remembered({"context": 5}) == 0 and one.card is None, "who answers there next may be another"


def test_a_full_queue_is_no_failure_and_is_waited_for_as_long_as_it_asks() -> None:
    clock = Clock()
    one = replica("a", clock)
    for _ in range(10):
        one.failed(Overloaded(Problem(title="Full", detail="Full.", status=429), retry_after=7.0))
    assert 6.9 < one.free_in <= 7.0 and one.breaker.closed
    clock.now += 7
    assert one.free_in == 0


def request(**more: object) -> ScoreRequest:
    fields = {"contexts": [np.arange(8)], "completions": [np.arange(4)], "context_of": np.zeros(1, dtype=np.int32)}
    return ScoreRequest(**{**fields, "support": Support.SAMPLED, **more})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"contexts": [np.arange(13)]}, False),
        ({"support": Support.TOPK, "k": 3}, True),
        ({"support": Support.TOPK, "k": 4}, False),
        ({"support": Support.FULL}, False),
        ({"completions": [np.arange(4)] * 3, "context_of": np.zeros(3, dtype=np.int32)}, False),
    ],
)
def test_an_endpoint_with_smaller_limits_is_not_asked_what_it_would_refuse(
    change: dict[str, object], fits: bool
) -> None:
    card = Card(
        teacher="math",
        model="tiny",
        weights_version=0,
        engine="test",
        device="cpu",
        dtype="float32",
        tokenizer=TokenizerCard(fingerprint="sha256:" + "0" * 64, vocab_size=64),
        limits=Limits(max_tokens=16, max_batch_tokens=32, max_k=3, max_body_bytes=2**20),
        supports=(Support.SAMPLED, Support.TOPK),
    )
    wanted = Want.of(request(**change), pinned=False, alone=False)
    assert takes(card, wanted) is fits
