"""A teacher's endpoints: who may join, who leaves, what runs are told of it, and where they are to ask."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.common import Scope
from preceptor.wire.runs import LeaseGrant, ReplicaAddress, RunState
from preceptor.wire.teachers import EndpointCreate, HeadCard, Limits, Support, Teacher, TeacherCreate, TeacherState
from tests.contract.conftest import House
from tests.contract.doubles import card_for

HERE = "http://127.0.0.1:1/spelling"
"""Where the house's own teacher answers."""


def at(number: int) -> str:
    return f"http://127.0.0.1:1/replica-{number}"


def grow(house: House, number: int = 2, key_env: str | None = None, **changes: Any) -> Teacher:
    """One more endpoint of the teacher `spelling`."""
    house.faculty.cards[at(number)] = card_for(house.tmp / "tiny", "spelling", **changes)
    return house.admin.teachers.add_endpoint("spelling", EndpointCreate(url=at(number), key_env=key_env))


def taught(house: House) -> House:
    house.model()
    house.teacher()
    return house


def take(house: House) -> LeaseGrant:
    return house.admin.runs.lease(house.run().id, "w")


def in_use(house: House, lease: LeaseGrant) -> list[str]:
    """Where the worker is now told to ask."""
    told = house.admin.runs.heartbeat(lease.run.id, lease.fence).teachers
    assert told is not None
    return [each.url for each in told["self"]]


def notes(house: House, run_id: str) -> list[str]:
    events = house.admin.runs.events(run_id, follow=False)
    return [event.data["message"] for event in events if event.kind == "note"]


def endpoint(teacher: Teacher, url: str) -> str:
    return next(each.id for each in teacher.endpoints if each.url == url)


def test_a_teacher_has_its_first_endpoint_from_the_start(house: House):
    teacher = taught(house).admin.teachers.get("spelling")
    (only,) = teacher.endpoints
    assert (only.url, only.state, only.probe) == (teacher.url, TeacherState.READY, teacher.probe)


def test_endpoints_join_in_order(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECOND_KEY", "very-secret")
    taught(house)
    grow(house, 2, "SECOND_KEY")
    teacher = grow(house, 3)
    assert [each.url for each in teacher.endpoints] == [HERE, at(2), at(3)]
    assert teacher == house.admin.teachers.get("spelling") == house.admin.teachers.list()[0]
    assert (teacher.url, teacher.key_env) == (HERE, None), "the first's"
    assert (teacher.endpoints[1].key_env, house.faculty.keys[at(2)]) == ("SECOND_KEY", "very-secret")
    assert "very-secret" not in house.http().get("/v1/teachers").text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "another"}, "its model is another, the teacher's tiny"),
        ({"weights_version": 3}, "its weights version is 3, the teacher's 0"),
        ({"supports": (Support.SAMPLED,)}, "it lacks the support ids, topk, full"),
        ({"head": HeadCard(hash="sha256:" + "9" * 64, hidden_size=2)}, "its head is sha256:9"),
        ({"values": "processed"}, "its values is processed"),
        (
            {"limits": Limits(max_tokens=100, max_batch_tokens=65536, max_k=64, max_body_bytes=2**28)},
            "max_tokens is 100",
        ),
    ],
)
def test_another_teacher_is_not_another_endpoint(sqlite_house: House, changes: dict[str, Any], said: str):
    taught(sqlite_house)
    with pytest.raises(Invalid, match=f"not another endpoint of teacher spelling: .*{said}") as caught:
        grow(sqlite_house, **changes)
    assert caught.value.field == "url"
    assert len(sqlite_house.admin.teachers.get("spelling").endpoints) == 1


def test_another_tokenizer_is_another_teacher(sqlite_house: House):
    taught(sqlite_house)
    sqlite_house.model("foreign", vocab=("a", "c", "b", "<end>"))
    sqlite_house.faculty.cards[at(2)] = card_for(sqlite_house.tmp / "foreign", "spelling", model="tiny")
    with pytest.raises(Invalid, match="its tokenizer is sha256:"):
        sqlite_house.admin.teachers.add_endpoint("spelling", EndpointCreate(url=at(2)))


def test_other_log_probabilities_are_another_teacher(sqlite_house: House):
    sqlite_house.faculty.logprobs = {HERE: (-1.0, -2.0), at(2): (-1.0, -2.1), at(3): (-1.0001, -2.0)}
    taught(sqlite_house)
    with pytest.raises(Invalid, match=r"they differ by 0\.1 \(bound 0\.001\)"):
        grow(sqlite_house, 2)
    assert len(grow(sqlite_house, 3).endpoints) == 2


def test_an_endpoint_of_a_teacher_that_moves_joins_with_the_weights_of_the_moment(sqlite_house: House):
    house = sqlite_house
    house.model()
    house.teacher(moves=True)
    moved = {"moves": True, "weights_version": 4, "head": HeadCard(hash="sha256:" + "4" * 64, hidden_size=2)}
    house.faculty.cards[HERE] = card_for(house.tmp / "tiny", "spelling", **moved)
    with pytest.raises(Invalid, match="its weights version is 0, the teacher's 4") as caught:
        grow(house, 2, moves=True)
    assert "Load the same version" in (caught.value.problem.remedy or "")
    assert len(grow(house, 3, **moved).endpoints) == 2
    with pytest.raises(Invalid, match="takes new weights and the other does not"):
        grow(house, 4, **{**moved, "moves": False})


def test_what_is_not_what_it_says_or_is_not_there_does_not_join(sqlite_house: House):
    taught(sqlite_house)
    sqlite_house.faculty.failing.add(at(2))
    with pytest.raises(Invalid, match="this server is refused"):
        grow(sqlite_house)
    with pytest.raises(Invalid, match="no teacher answered"):
        sqlite_house.admin.teachers.add_endpoint("spelling", EndpointCreate(url=at(9)))
    with pytest.raises(Invalid, match=r"169\.254"):
        sqlite_house.admin.teachers.add_endpoint("spelling", EndpointCreate(url="http://169.254.169.254"))
    with pytest.raises(Conflict, match=r"answers at .* already"):
        sqlite_house.admin.teachers.add_endpoint("spelling", EndpointCreate(url=HERE + "/"))
    with pytest.raises(NotFound):
        sqlite_house.admin.teachers.add_endpoint("nobody", EndpointCreate(url=at(2)))
    assert len(sqlite_house.admin.teachers.get("spelling").endpoints) == 1


def test_only_an_admin_changes_endpoints(sqlite_house: House):
    taught(sqlite_house)
    runner = sqlite_house.http(sqlite_house.admin.keys.create("r", Scope.RUN).secret)
    for method, path in (("POST", ""), ("DELETE", "/e"), ("POST", "/e/drain"), ("DELETE", "/e/drain")):
        body = {"url": at(2)} if not path else None
        answer = runner.request(method, f"/v1/teachers/spelling/endpoints{path}", json=body)
        assert answer.status_code == 403, (method, path)


def test_a_worker_is_told_all_endpoints_and_of_those_that_join_and_leave(house: House):
    taught(house)
    grow(house, 2)
    lease = take(house)
    asked = lease.teachers["self"]
    assert (asked.url, asked.replicas) == (HERE, (ReplicaAddress(url=at(2)),))
    teacher = grow(house, 3)
    assert in_use(house, lease) == [HERE, at(2), at(3)]
    house.admin.teachers.remove_endpoint("spelling", endpoint(teacher, HERE))
    assert in_use(house, lease) == [at(2), at(3)]
    assert house.admin.teachers.get("spelling").url == at(2), "the next one is the first now"
    assert notes(house, lease.run.id) == [
        f"Teacher spelling: the endpoint {at(3)} joined.",
        f"Teacher spelling: the endpoint {HERE} left.",
    ]


def test_the_last_endpoint_stays(house: House):
    taught(house)
    teacher = house.admin.teachers.get("spelling")
    with pytest.raises(Conflict, match="is the only endpoint of teacher spelling"):
        house.admin.teachers.remove_endpoint("spelling", teacher.endpoints[0].id)
    with pytest.raises(NotFound, match="has no endpoint 'endpoint-0'"):
        house.admin.teachers.remove_endpoint("spelling", "endpoint-0")
    house.admin.teachers.remove("spelling")
    assert house.admin.teachers.list() == (), "with all its endpoints"


def test_a_drained_endpoint_leaves_the_runs_that_have_another(house: House):
    taught(house)
    teacher = grow(house)
    lease = take(house)
    drained = house.admin.teachers.drain_endpoint("spelling", endpoint(teacher, HERE))
    assert [each.state for each in drained.endpoints] == [TeacherState.DRAINING, TeacherState.READY]
    assert drained.state is TeacherState.READY
    assert in_use(house, lease) == [at(2)]
    assert house.admin.teachers.probe("spelling").endpoints[0].state is TeacherState.DRAINING, "until it is undrained"
    house.admin.teachers.undrain_endpoint("spelling", endpoint(teacher, HERE))
    assert in_use(house, lease) == [HERE, at(2)]
    assert notes(house, lease.run.id) == [
        f"Teacher spelling: the endpoint {HERE} is being drained.",
        f"Teacher spelling: the endpoint {HERE} is ready again.",
    ]


def test_runs_go_on_at_a_drained_endpoint_that_is_the_only_one_and_no_more_come(house: House):
    taught(house)
    lease = take(house)
    only = house.admin.teachers.get("spelling").endpoints[0].id
    assert house.admin.teachers.drain_endpoint("spelling", only).state is TeacherState.DRAINING
    assert in_use(house, lease) == [HERE]
    with pytest.raises(Invalid, match="teacher spelling is draining, and takes no new runs"):
        house.run()


def test_a_drained_teacher_finishes_its_runs_and_takes_no_more(house: House):
    taught(house)
    queued, lease = house.run(), take(house)
    house.admin.teachers.drain("spelling")
    assert in_use(house, lease) == [HERE]
    assert house.admin.runs.lease(queued.id, "w").teachers["self"].url == HERE, "what was queued before is finished"
    with pytest.raises(Invalid, match="is draining, and takes no new runs"):
        house.run()
    house.admin.runs.cancel(lease.run.id)
    house.admin.runs.release(lease.run.id, lease.fence)
    assert house.admin.runs.get(lease.run.id).state is RunState.CANCELLED
    with pytest.raises(Conflict, match="which is draining and takes no more runs"):
        house.admin.runs.resume(lease.run.id)
    house.admin.teachers.undrain("spelling")
    assert house.admin.runs.resume(lease.run.id).state is RunState.QUEUED


def test_a_probe_looks_at_every_endpoint(house: House):
    taught(house)
    grow(house)
    lease = take(house)
    del house.faculty.cards[HERE]
    teacher = house.admin.teachers.probe("spelling")
    assert [each.state for each in teacher.endpoints] == [TeacherState.DOWN, TeacherState.READY]
    assert teacher.state is TeacherState.READY, "while one is"
    assert "No answer" in (teacher.endpoints[0].trouble or "")
    assert in_use(house, lease) == [at(2)]
    del house.faculty.cards[at(2)]
    assert house.admin.teachers.probe("spelling").state is TeacherState.DOWN
    assert in_use(house, lease) == [HERE, at(2)], "where none answers, all are tried"
    with pytest.raises(Invalid, match="teacher spelling is down"):
        house.run()


def test_one_that_is_another_now_is_degraded_and_all_that_are_another_are_the_teacher(house: House):
    taught(house)
    grow(house)
    known = house.faculty.cards[HERE]
    newer = known.model_copy(update={"weights_version": 1})
    house.faculty.cards[at(2)] = newer
    teacher = house.admin.teachers.probe("spelling")
    assert [each.state for each in teacher.endpoints] == [TeacherState.READY, TeacherState.DEGRADED]
    assert "its weights version is 1, the teacher's 0" in (teacher.endpoints[1].trouble or "")
    assert teacher.card == known
    house.faculty.cards[HERE] = newer
    teacher = house.admin.teachers.probe("spelling")
    assert [each.state for each in teacher.endpoints] == [TeacherState.READY, TeacherState.READY]
    assert teacher.card == newer


def test_a_teacher_that_has_another_tokenizer_now_is_degraded(house: House):
    taught(house)
    house.model("foreign", vocab=("a", "c", "b", "<end>"))
    known = house.faculty.cards[HERE]
    house.faculty.cards[HERE] = card_for(house.tmp / "foreign", "spelling", model="tiny")
    teacher = house.admin.teachers.probe("spelling")
    assert teacher.state is TeacherState.DEGRADED
    assert "It is not the teacher that was registered: its tokenizer is" in (teacher.endpoints[0].trouble or "")
    assert teacher.card == known


def test_a_teacher_whose_name_is_taken_again_has_no_old_endpoints(house: House):
    taught(house)
    grow(house)
    house.admin.teachers.remove("spelling")
    again = house.admin.teachers.add(TeacherCreate(name="spelling", url=HERE))
    assert [each.url for each in again.endpoints] == [HERE]
