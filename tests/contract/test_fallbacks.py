"""Fallbacks of a run: named where a context asks for one and nowhere else, and handed to the worker."""

from __future__ import annotations

import re
from typing import Any

import pytest

from preceptor.errors import Conflict, Invalid
from preceptor.wire.runs import ReplicaAddress, Run, RunState
from preceptor.wire.teachers import EndpointCreate, Support
from tests.contract.conftest import House
from tests.contract.doubles import card_for

FALLING = {"contexts": {"reference": {"on_failure": "fallback"}}}
SPARE = "http://127.0.0.1:1/spare"


def staffed(house: House) -> House:
    house.model()
    house.teacher()
    house.teacher("spare")
    return house


def start(house: House, **changes: Any) -> Run:
    fields = {"teachers": {"self": "spelling"}, "fallbacks": {"self": "spare"}, "overrides": FALLING, **changes}
    return house.run(**fields)


def refused(house: House, **changes: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        start(house, **changes)
    assert list(house.admin.runs.list()) == []
    return caught.value


def test_a_worker_is_told_whom_to_ask_instead(house: House):
    run = start(staffed(house))
    assert run.fallbacks == {"self": "spare"} == house.admin.runs.get(run.id).fallbacks
    house.faculty.cards[SPARE + "/2"] = card_for(house.tmp / "tiny", "spare")
    house.admin.teachers.add_endpoint("spare", EndpointCreate(url=SPARE + "/2"))
    lease = house.admin.runs.lease(run.id, "w")
    assert set(lease.teachers) == set(lease.fallbacks) == {"self"}
    spare = lease.fallbacks["self"]
    assert (spare.name, spare.url, spare.replicas) == ("spare", SPARE, (ReplicaAddress(url=SPARE + "/2"),))
    assert lease.run.fallbacks == {"self": "spare"}


def test_a_run_without_any_has_none(house: House):
    lease = house.admin.runs.lease(house.run().id, "w")
    assert lease.fallbacks == {} == lease.run.fallbacks


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"fallbacks": {}}, "fallbacks.self", "the context reference asks a fallback .* names none for this role"),
        ({"fallbacks": {"judge": "spare"}}, "fallbacks.judge", "the recipe has no such role; it has self"),
        ({"fallbacks": {"self": "nobody"}}, "fallbacks.self", "there is no teacher 'nobody'"),
        ({"fallbacks": {"self": "spelling"}}, "fallbacks.self", "fills this role already"),
        ({"overrides": {}}, "fallbacks.self", "teacher spare would never be asked"),
    ],
)
def test_fallbacks_that_cannot_be(sqlite_house: House, changes: dict[str, Any], field: str, said: str):
    error = refused(staffed(sqlite_house), **changes)
    assert error.field == field
    assert re.search(said, str(error)), str(error)


def test_a_fallback_must_be_ready(house: House):
    staffed(house).admin.teachers.drain("spare")
    error = refused(house)
    assert (error.field, "teacher spare is draining" in str(error)) == ("fallbacks.self", True)


def test_a_fallback_must_suit_the_student_and_the_recipe(sqlite_house: House):
    house = staffed(sqlite_house)
    house.model("foreign", vocab=("a", "c", "b", "<end>"))
    house.teacher("stranger", model="foreign")
    assert refused(house, fallbacks={"self": "stranger"}).field == "fallbacks.self"
    house.teacher("narrow", supports=(Support.SAMPLED,), head=None)
    assert refused(house, fallbacks={"self": "narrow"}).field == "fallbacks.self"


def test_a_fallback_is_kept_while_a_run_may_need_it(house: House):
    run = start(staffed(house))
    with pytest.raises(Conflict, match=f"Run {run.id} still needs teacher spare"):
        house.admin.teachers.remove("spare")
    house.admin.runs.cancel(run.id)
    house.admin.teachers.remove("spare")
    with pytest.raises(Conflict, match="needs teacher spare as self, which is not registered"):
        house.admin.runs.resume(run.id)
    assert house.admin.runs.get(run.id).state is RunState.CANCELLED


def test_another_fallback_is_another_wish(house: House):
    staffed(house)
    wish = house.wish(teachers={"self": "spelling"}, fallbacks={"self": "spare"}, overrides=FALLING)
    house.admin.runs.start(wish, idempotency_key="one")
    house.teacher("other")
    with pytest.raises(Conflict, match="was used for run"):
        house.admin.runs.start(wish.model_copy(update={"fallbacks": {"self": "other"}}), idempotency_key="one")
