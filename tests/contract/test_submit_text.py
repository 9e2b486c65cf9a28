"""Teachers that are to write more than they can: refused where they are named, with both numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preceptor.errors import Invalid
from preceptor.wire.data import TaskSource
from preceptor.wire.debates import DebateCreate
from preceptor.wire.teachers import EndpointCreate, Limits
from preceptor_trainer.part import Part
from preceptor_trainer.recipe import Context, State
from preceptor_trainer.router import Router
from tests.contract import test_codistillations, test_refills
from tests.contract.conftest import House
from tests.contract.doubles import write_model
from tests.contract.refusing import refused
from tests.contract.test_submit_routing import TWO, faculty


def limits(reads: int, writes: int | None = None) -> Limits:
    return Limits(max_tokens=reads, max_batch_tokens=65536, max_k=64, max_body_bytes=2**28, max_new_tokens=writes)


def writer(house: House, name: str, reads: int, writes: int | None = None) -> str:
    """A registered teacher that writes no longer text than this."""
    house.teacher(name, generates=True, limits=limits(reads, writes))
    return name


def opcod(house: House, peer: str, most: int) -> dict[str, Any]:
    contexts = {"tutored": {"kind": "tutored", "max_tokens": most}}
    return {
        "recipe": "opcod",
        "student": house.model(),
        "teachers": {"self": "self", "peer": peer},
        "overrides": {"contexts": contexts, "rollout": {"max_tokens": 64}, "teacher": {"kind": "frozen"}},
        "data": TaskSource(task="chain_sum"),
        "training": {"steps": 4},
    }


def test_endpoints_of_one_teacher_write_as_much_as_the_first(sqlite_house: House) -> None:
    house = sqlite_house
    house.model()
    for name, first, second, same in (("a", 64, 63, False), ("b", 64, None, True), ("c", None, 64, True)):
        writer(house, name, 4096, first)
        url = f"http://127.0.0.1:1/{name}-2"
        card = house.faculty.cards[f"http://127.0.0.1:1/{name}"]
        house.faculty.cards[url] = card.model_copy(update={"limits": limits(4096, second)})
        if same:
            assert len(house.admin.teachers.add_endpoint(name, EndpointCreate(url=url)).endpoints) == 2
        else:
            with pytest.raises(Invalid, match="its longest_reply is 63, and runs were promised 64"):
                house.admin.teachers.add_endpoint(name, EndpointCreate(url=url))


def test_what_leaves_no_room_for_a_prompt_is_too_long() -> None:
    assert (limits(512).longest_reply, limits(512, 64).longest_reply, limits(512, 4096).longest_reply) == (511, 64, 511)


def test_a_context_that_wants_more_than_its_teacher_writes_is_refused(house: House) -> None:
    house.model()
    house.teacher("self")
    for name, reads, writes, most in (("small", 512, None, 511), ("brief", 4096, 64, 64)):
        writer(house, name, reads, writes)
        error = refused(house, **opcod(house, name, most + 1))
        assert error.problem.status == 422 and error.field == "teachers.peer"
        for said in (f"teacher {name}", "role peer", f"{most} tokens at most", f"tutored.max_tokens is {most + 1}"):
            assert said in str(error)
        assert f"Lower overrides.contexts.tutored.max_tokens to {most} or less" in (error.problem.remedy or "")
    writer(house, "long", 4096)
    error = refused(house, **opcod(house, "brief", 512))
    assert "Registered and fit for it: long." in (error.problem.remedy or ""), "and small is not named"
    for name, most in (("small", 511), ("brief", 64), ("long", 4095)):
        assert house.run(**opcod(house, name, most)).teachers["peer"] == name


def test_routers_and_banks_ask_for_no_more_either(sqlite_house: House) -> None:
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters", "maths")
    writer(house, "brief", 512, 8)
    router = {"contexts.teacher.router": {"kind": "classifier", "domains": ["letters", "maths"]}}
    wish = {"recipe": "opd", "student": student, "teachers": {**teachers, "classifier": "brief"}, "data": TWO}
    error = refused(house, **wish, overrides=router)
    assert error.field == "teachers.classifier" and "contexts.teacher.router.max_tokens is 64" in str(error)
    house.admin.skills.create("words", task="spell_backward")
    growing = {"state": {"skills": {"kind": "skill_bank", "max_tokens": 9, "cold_start": 8}}}
    wish = {"recipe": "sgsd", "skills": "words", "teachers": {"self": "letters", "extractor": "brief"}}
    error = refused(house, **wish, student=student, overrides=growing)
    assert error.field == "teachers.extractor" and "overrides.state.skills.max_tokens is 9" in str(error)


def test_who_joins_later_is_held_to_the_same(sqlite_house: House) -> None:
    house = sqlite_house
    house.model()
    house.teacher("self")
    run = house.run(**opcod(house, writer(house, "long", 4096), 512))
    writer(house, "brief", 4096, 64)
    error = test_refills.refused(house, run, {"peer": "brief"})
    assert error.problem.field == "teachers.peer" and "64 tokens at most" in str(error)


def test_a_debater_that_writes_less_than_a_turn_may_have_is_refused(sqlite_house: House) -> None:
    house = sqlite_house
    house.model()
    for name, writes in (("ann", None), ("bob", 64)):
        writer(house, name, 4096, writes)
    with pytest.raises(Invalid, match="bob writes replies of 64 tokens at most, and max_tokens is 512") as found:
        house.admin.debates.start(DebateCreate(question="Six times seven?", teachers=("ann", "bob")))
    assert found.value.field == "teachers.1"
    assert not list(house.admin.debates.list()) and not house.queue.sent
    assert house.admin.debates.start(DebateCreate(question="?", teachers=("ann", "bob"), max_tokens=64))


def test_a_pair_s_students_write_no_more_than_their_positions(sqlite_house: House) -> None:
    house = sqlite_house
    small = _with_positions(write_model(house.tmp / "small", vocab=("a", "b", "c", "d", "<end>")), 256)
    student = house.admin.artifacts.push(small, "model", "small")
    side = {**opcod(house, "nobody", 300), "data": TWO, "teachers": {"self": "self"}}
    house.teacher("self")
    wish = test_codistillations.wish(house, side, {"student": student})
    with pytest.raises(Invalid, match="role peer, writes replies of 255 tokens at most") as found:
        house.admin.codistillations.start(wish)
    assert found.value.field == "a.run.teachers.peer"
    assert not house.admin.codistillations.list() and not list(house.admin.runs.list())


def _with_positions(folder: Path, positions: int) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": positions}))
    return folder


def test_whatever_asks_for_text_says_how_much() -> None:
    asking = [
        part
        for role in (Context, State, Router)
        for part in role.kinds.values()
        if part.__module__.startswith("preceptor_trainer.") and getattr(part, "writers", None) is not role.writers
    ]
    assert len(asking) >= 6
    assert [part.__name__ for part in asking if not _says(part)] == []


def _says(part: type[Part]) -> bool:
    return "max_tokens" in part.model_fields
