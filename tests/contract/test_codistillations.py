"""A pair over the API: submitted, refused, published to, recorded, stopped and taken up again."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.errors import Conflict, Invalid, LeaseLost
from preceptor.records import joined
from preceptor.wire.codistillations import (
    Codistillation,
    CodistillationCreate,
    CodistillationState,
    Record,
    SideCreate,
)
from preceptor.wire.common import Problem
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.pairs import Outcomes, PairPolicy, PeerAnswers, PeerServing, Publication, version_of
from preceptor.wire.runs import Evaluation, Finish, Ledger, RunCreate, RunState, StepReport, StepsReport, TeacherLedger
from preceptor.wire.teachers import TeacherState
from tests.contract.conftest import House
from tests.contract.doubles import card_for
from tests.contract.refusing import ROWS, dataset

HASH, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BYTES = ("a", "b", "c", "d", "<end>")


def side(house: House, called: str, /, teaches: tuple[str, ...] = (), **changes: Any) -> SideCreate:
    fields: dict[str, Any] = {
        "name": called,
        "recipe": "peer_opd",
        "student": house.model(),
        "teachers": {"start": "base"},
        "data": TaskSource(task="two_domains"),
        "training": {"steps": 4},
        **changes,
    }
    return SideCreate(run=RunCreate(**fields), teaches=teaches)


def wish(house: House, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None) -> CodistillationCreate:
    return CodistillationCreate(
        name="two", a=side(house, "one", **(a or {})), b=side(house, "other", **(b or {})), policy=PairPolicy(max_lag=1)
    )


def publication(fence: int, step: int, hash: str = HASH, **outcomes: Outcomes) -> Publication:
    return Publication(version=version_of(fence, step), step=step, weights_hash=hash, outcomes=outcomes)


def leased(house: House, run: str) -> int:
    return house.admin.runs.lease(run, "worker").fence


def test_a_pair_is_two_runs_and_two_teachers_that_answer_nowhere_yet(house: House) -> None:
    pair = house.admin.codistillations.start(wish(house), idempotency_key="once")
    assert pair.state is CodistillationState.QUEUED
    assert house.admin.codistillations.start(wish(house), idempotency_key="once").id == pair.id
    with pytest.raises(Conflict, match="another body"):
        house.admin.codistillations.start(wish(house, b={"training": {"steps": 5}}), idempotency_key="once")
    assert [each.id for each in house.admin.codistillations.list()] == [pair.id]
    runs = {name: house.admin.runs.get(run) for name, run in (("a", pair.a.run), ("b", pair.b.run))}
    assert runs["a"].teachers == {"start": "base", "peer": "two-b"}
    assert runs["b"].teachers == {"start": "base", "peer": "two-a"}
    assert runs["a"].resolved["contexts"]["peer"]["on_failure"] == "drop", "the pair says what happens then"
    assert {house.admin.teachers.get(name).state for name in ("two-a", "two-b")} == {TeacherState.DOWN}
    grant = house.admin.runs.lease(pair.a.run, "worker")
    assert grant.pair is not None and (grant.pair.side, grant.pair.peer_run) == ("a", pair.b.run)
    assert grant.pair.policy.max_lag == 1
    assert house.admin.codistillations.get(pair.id).state is CodistillationState.RUNNING


@pytest.mark.parametrize(
    ("a", "b", "field", "said"),
    [
        ({}, {"name": "one", "training": {"steps": 5}}, "b.run.name", "both sides name the run one"),
        ({"recipe": "sft", "teachers": {}}, {}, "a.run.recipe", "asks no peer"),
        ({}, {"teachers": {"start": "base", "peer": "x"}}, "b.run.teachers.peer", "the other side's student"),
        ({"teaches": ("letters",)}, {}, "a.run.data", "neither side teaches"),
        ({"teaches": ("letters", "maths")}, {"teaches": ("logic",)}, "b.teaches", "no task of either side"),
        ({"training": {"steps": 4, "devices": 2}}, {}, "a.run.training.devices", "one device"),
        ({"training": {"stepz": 4}}, {}, "a.run.training.stepz", "no such field"),
        ({"data": TaskSource(task="nothing")}, {}, "a.run.data.task", "there is no task"),
        ({"recipe": "nothing"}, {}, "a.run.recipe", "no recipe is called"),
        ({}, {"overrides": {"contexts.peer.confidence": 2}}, "b.run.overrides.contexts.peer.confidence", "less than 1"),
        ({"training": {"steps": 4, "devices": "many"}}, {}, "a.run.training.devices", "a valid integer"),
        ({"training": {"steps": 4, "devices": None}}, {}, "a.run.training.devices", "a valid integer"),
        (
            {"teaches": ("letters", "maths"), "data": TaskSource(task="two_domains", options={"colour": 1})},
            {},
            "a.run.data.options",
            "no option 'colour'",
        ),
        (
            {"teaches": ("letters", "maths"), "data": TaskSource(task="spell_backward")},
            {},
            "a.run.data",
            "tasks that name no domain",
        ),
        ({"teaches": ("letters", "letters", "maths")}, {}, "a.teaches.1", "named twice"),
        ({"teaches": (" ",)}, {}, "a.teaches.0", "it is blank"),
    ],
)
def test_what_cannot_be_a_pair_is_refused_and_changes_nothing(
    sqlite_house: House, a: dict[str, Any], b: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        sqlite_house.admin.codistillations.start(wish(sqlite_house, a, b))
    assert caught.value.field == field
    assert not sqlite_house.admin.codistillations.list() and not list(sqlite_house.admin.runs.list())
    assert not sqlite_house.admin.teachers.list()


def test_pairs_are_listed_page_by_page(house: House) -> None:
    pairs = [
        house.admin.codistillations.start(
            wish(house, {"name": f"one{n}"}, {"name": f"other{n}"}).model_copy(update={"name": f"two{n}"})
        ).id
        for n in range(3)
    ]
    first = house.http().get("/v1/codistillations", params={"limit": 2}).json()
    rest = house.http().get("/v1/codistillations", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [each["id"] for each in (*first["items"], *rest["items"])] == pairs[::-1] and rest["next_cursor"] is None
    assert [each.id for each in house.admin.codistillations.list()] == pairs[::-1]


def test_a_pairs_name_leaves_room_for_its_students(sqlite_house: House) -> None:
    long = wish(sqlite_house).model_copy(update={"name": "x" * 99})
    with pytest.raises(Invalid, match="it has 99 characters") as caught:
        sqlite_house.admin.codistillations.start(long)
    assert caught.value.field == "name"
    fits = sqlite_house.admin.codistillations.start(long.model_copy(update={"name": "x" * 98}))
    assert fits.a.teacher == "x" * 98 + "-a"


def test_the_domains_of_rows_are_taught_or_refused(sqlite_house: House) -> None:
    def data(name: str, *domains: str | None) -> dict[str, Any]:
        held = [{**row, "domain": domains[at % len(domains)]} for at, row in enumerate(ROWS)]
        return {"data": DatasetSource(artifact=dataset(sqlite_house, held, name))}

    start = sqlite_house.admin.codistillations.start
    for name, domains, said in (
        ("more", ("letters", "law"), "tasks of the domain 'law'"),
        ("gaps", ("letters", None, ""), "tasks that name no domain"),
    ):
        with pytest.raises(Invalid, match=said) as caught:
            start(wish(sqlite_house, {"teaches": ("letters",), **data(name, *domains)}, {"teaches": ("maths",)}))
        assert caught.value.field == "a.run.data"
    unknown = data("many", *(f"d{at}" for at in range(100)))
    pair = start(wish(sqlite_house, {"teaches": ("letters", "d1"), **unknown}, {"teaches": ("maths",)}))
    assert pair.a.teaches == ("letters", "d1"), "what is not known beforehand shows as it runs"


def test_a_pair_that_names_one_run_twice_is_refused(sqlite_house: House) -> None:
    one = side(sqlite_house, "one")
    with pytest.raises(Invalid, match="cannot be its own peer") as caught:
        sqlite_house.admin.codistillations.start(CodistillationCreate(a=one, b=one))
    assert caught.value.field == "b.run"


def test_peers_with_other_tokenizers_are_refused_where_ids_are_compared_and_heard_by_bytes(sqlite_house: House) -> None:
    other = {"student": sqlite_house.model("other", vocab=BYTES)}
    with pytest.raises(Invalid, match="reads other tokens") as caught:
        sqlite_house.admin.codistillations.start(wish(sqlite_house, b=other))
    assert caught.value.field == "a.run.teachers.peer"
    aligned = {"alignment": "bytes"}
    with pytest.raises(Invalid, match="distributions over other tokens") as caught:
        sqlite_house.admin.codistillations.start(wish(sqlite_house, a=aligned, b={**other, **aligned}))
    assert caught.value.field == "a.run.alignment"
    by_bytes = {
        "recipe": "opd",
        "overrides": {"contexts": {"teacher": {"teacher": "peer"}}},
        "teachers": {},
        **aligned,
    }
    pair = sqlite_house.admin.codistillations.start(wish(sqlite_house, a=by_bytes, b={**other, **by_bytes}))
    assert sqlite_house.admin.runs.get(pair.a.run).alignment == "bytes"


def test_a_recipe_that_reads_how_a_peer_does_is_refused_to_a_run_by_itself(sqlite_house: House) -> None:
    sqlite_house.model()
    sqlite_house.teacher()
    with pytest.raises(Invalid, match="a run by itself has none") as caught:
        sqlite_house.admin.runs.start(side(sqlite_house, "alone").run)
    assert caught.value.field == "recipe"


def test_a_version_is_published_once_by_whoever_holds_the_lease(house: House) -> None:
    pair = house.admin.codistillations.start(wish(house))
    run, publish = pair.a.run, house.admin.codistillations.publish
    fence = leased(house, run)
    first = publication(fence, 0)
    for _ in range(2):  # the answer to the first was lost
        publish(run, fence, first)
    publish(run, fence, publication(fence, 1, maths=Outcomes(right=3, wrong=1)))
    with pytest.raises(Conflict, match="was published as"):
        publish(run, fence, publication(fence, 0, OTHER))
    with pytest.raises(Invalid, match="are version"):
        publish(run, fence, publication(fence + 1, 2))
    with pytest.raises(LeaseLost):
        publish(run, fence - 1, publication(fence - 1, 2))
    found = house.admin.codistillations.published(run)
    assert [each.step for each in found.publications] == [0, 1] and found.url is None
    assert house.admin.codistillations.published(run, after=first.version).publications[0].outcomes["maths"].right == 3
    assert not found.done
    publish(run, fence, publication(fence, 1), done=True)
    assert house.admin.codistillations.published(run).done
    shown = house.admin.codistillations.get(pair.id).a
    assert (shown.published, shown.version) == (2, version_of(fence, 1))


def test_a_student_is_asked_where_its_worker_says_and_the_other_side_is_told(house: House) -> None:
    pair = house.admin.codistillations.start(wish(house))
    mine, other = leased(house, pair.a.run), leased(house, pair.b.run)
    card = card_for(house.tmp / "tiny", "two-a", moves=True)
    serve = house.admin.codistillations.serve
    serve(pair.a.run, PeerServing(fence=mine, url="http://127.0.0.1:1/a", card=card))
    told = house.admin.runs.heartbeat(pair.b.run, other).teachers
    assert told is not None and [each.url for each in told["peer"]] == ["http://127.0.0.1:1/a"]
    assert house.admin.teachers.get("two-a").state is TeacherState.READY
    serve(pair.a.run, PeerServing(fence=mine, url="http://127.0.0.1:2/a", card=card))
    assert house.admin.codistillations.published(pair.a.run).url == "http://127.0.0.1:2/a"
    with pytest.raises(Invalid, match="where no teacher may be"):
        serve(pair.a.run, PeerServing(fence=mine, url="http://169.254.169.254/a", card=card))
    house.model("other", vocab=BYTES)
    with pytest.raises(Invalid, match="not the student that was submitted"):
        other_card = card_for(house.tmp / "other", "two-a", moves=True)
        serve(pair.a.run, PeerServing(fence=mine, url="http://127.0.0.1:2/a", card=other_card))


def test_stop_and_resume_are_of_both_sides(sqlite_house: House) -> None:
    pair = sqlite_house.admin.codistillations.start(wish(sqlite_house))
    stopped = sqlite_house.admin.codistillations.stop(pair.id)
    assert stopped.state is CodistillationState.STOPPED and stopped.a.state is RunState.CANCELLED
    with pytest.raises(Conflict, match="have ended already"):
        sqlite_house.admin.codistillations.stop(pair.id)
    assert sqlite_house.admin.codistillations.resume(pair.id).state is CodistillationState.QUEUED
    with pytest.raises(Conflict, match="Neither run"):
        sqlite_house.admin.codistillations.resume(pair.id)


@pytest.mark.parametrize("end", ["stopped", "failed", "given back"])
def test_a_student_whose_run_goes_on_no_more_is_nobody_to_be_asked(house: House, end: str) -> None:
    pair, teachers = house.admin.codistillations.start(wish(house)), house.admin.teachers
    fence = leased(house, pair.a.run)
    card = card_for(house.tmp / "tiny", "two-a", moves=True)
    house.admin.codistillations.serve(pair.a.run, PeerServing(fence=fence, url="http://127.0.0.1:1/a", card=card))
    assert teachers.get("two-a").state is TeacherState.READY
    if end == "failed":
        error = Problem(title="Lost", detail="The peer is lost.")
        house.admin.runs.finish(pair.a.run, Finish(fence=fence, state=RunState.FAILED, error=error))
    else:
        if end == "stopped":
            house.admin.codistillations.stop(pair.id)
        house.admin.runs.release(pair.a.run, fence)
    expected = TeacherState.READY if end == "given back" else TeacherState.DOWN
    assert teachers.get("two-a").state is expected
    if end == "given back":
        return
    assert "trained this student, is" in (teachers.get("two-a").endpoints[0].trouble or "")
    house.admin.codistillations.resume(pair.id)
    fence = leased(house, pair.a.run)
    house.admin.codistillations.serve(pair.a.run, PeerServing(fence=fence, url="http://127.0.0.1:1/a", card=card))
    assert teachers.get("two-a").state is TeacherState.READY


def test_a_pair_is_taken_up_again_though_somebody_forgot_its_students(sqlite_house: House) -> None:
    pair = sqlite_house.admin.codistillations.start(wish(sqlite_house))
    sqlite_house.admin.codistillations.stop(pair.id)
    sqlite_house.admin.teachers.remove("two-a")
    assert sqlite_house.admin.codistillations.resume(pair.id).state is CodistillationState.QUEUED
    assert sqlite_house.admin.teachers.get("two-a").state is TeacherState.DOWN
    fence = leased(sqlite_house, pair.a.run)
    card = card_for(sqlite_house.tmp / "tiny", "two-a", moves=True)
    serving = PeerServing(fence=fence, url="http://127.0.0.1:1/a", card=card)
    sqlite_house.admin.codistillations.serve(pair.a.run, serving)
    assert sqlite_house.admin.teachers.get("two-a").state is TeacherState.READY


def test_the_record_holds_what_was_heard_against_what_was_published(sqlite_house: House) -> None:
    pair = sqlite_house.admin.codistillations.start(wish(sqlite_house))
    mine, theirs = leased(sqlite_house, pair.a.run), leased(sqlite_house, pair.b.run)
    publish = sqlite_house.admin.codistillations.publish
    for number in (0, 1):
        publish(pair.b.run, theirs, publication(theirs, number))
    _report(sqlite_house, pair, mine, 1, version_of(theirs, 0), **{"gate/maths": 0.0, "peer_waited_seconds": 1.5})
    opened = {"gate/maths": 1.0, "own/maths": 0.1, "peer/maths": 0.9, "peer_alone": 0.0}
    _report(sqlite_house, pair, mine, 2, version_of(theirs, 1), **opened)
    record = sqlite_house.admin.codistillations.record(pair.id).a
    assert [(each.step, each.open, each.own, each.peer) for each in record.gates] == [(2, True, 0.1, 0.9)]
    assert sum(each.count for each in record.heard) == 16 and record.largest_lag == 1
    assert record.waited_seconds == 1.5 and record.alone == () and record.unpublished == ()
    _report(sqlite_house, pair, mine, 3, version_of(theirs, 7), peer_alone=1.0)
    record = sqlite_house.admin.codistillations.record(pair.id).a
    assert record.unpublished == (version_of(theirs, 7),) and record.alone == (3,)


def test_the_record_tells_what_feedback_came_to(sqlite_house: House) -> None:
    pair = sqlite_house.admin.codistillations.start(wish(sqlite_house))
    mine, theirs = leased(sqlite_house, pair.a.run), leased(sqlite_house, pair.b.run)
    sqlite_house.admin.codistillations.publish(pair.b.run, theirs, publication(theirs, 0))
    for step, (maths, unreadable) in enumerate([(0.0, 3), (5.0, 1)], 1):
        answers = [PeerAnswers(kind="feedback", version=version_of(theirs, 0), lag=step - 1, count=4)]
        ledger = Ledger(teachers={"peer": TeacherLedger(answers=answers, unreadable=unreadable, unwritten=2)})
        report = StepReport(step=step, metrics={"feedback/maths": maths, "feedback/letters": 1.0}, ledger=ledger)
        sqlite_house.admin.runs.report(pair.a.run, StepsReport(fence=mine, steps=[report]))
    record = sqlite_house.admin.codistillations.record(pair.id)
    assert {each.domain: each.rollouts for each in record.a.feedback} == {"letters": 2, "maths": 5}
    assert (record.a.unreadable, record.a.unwritten) == (4, 4)
    assert [(each.kind, each.lag, each.count) for each in record.a.heard] == [("feedback", 0, 4), ("feedback", 1, 4)]
    assert record.b.feedback == () and not record.b.heard


def test_a_long_record_comes_in_pages_that_add_up(house: House) -> None:
    pair = house.admin.codistillations.start(wish(house, {"training": {"steps": 8}}))
    mine, theirs = leased(house, pair.a.run), leased(house, pair.b.run)
    house.admin.codistillations.publish(pair.b.run, theirs, publication(theirs, 0))
    scored = {"n": 2, "correct": 1, "accuracy": 0.5, "ci95": 0.3, "mean_length": 3, "seconds": 1, "hits": [True, False]}
    house.admin.runs.report(pair.a.run, StepsReport(fence=mine, evaluations=[Evaluation(step=0, **scored)]))
    for step in range(1, 8):
        told = {"gate/maths": float(step in (2, 3, 4, 6)), "peer_alone": float(step % 2), "peer_waited_seconds": 0.5}
        told |= {"feedback/maths": 2.0, "feedback_cut/maths": 1.0, "loss_of_nothing": float("nan")}
        _report(house, pair, mine, step, version_of(theirs, 5 if step == 3 else 0), **told)
    evaluated = [Evaluation(step=each, **scored) for each in (4, 7)]
    house.admin.runs.report(pair.a.run, StepsReport(fence=mine, evaluations=evaluated))
    whole = house.admin.codistillations.record(pair.id)
    assert [(each.step, each.open) for each in whole.a.gates] == [(2, True), (5, False), (6, True), (7, False)]
    assert [each.step for each in whole.a.accuracy] == [0, 4, 7] and whole.a.alone == (1, 3, 5, 7)
    assert whole.a.unpublished == (version_of(theirs, 5),) and whole.a.largest_lag == 6
    assert [(each.rollouts, each.sentences_cut) for each in whole.a.feedback] == [(14, 7)]
    for limit in (1, 2, 3, 7):
        pages, cursor = list[Record](), None
        while not pages or cursor is not None:
            params = {"limit": limit, **({} if cursor is None else {"cursor": cursor})}
            answer = house.http().get(f"/v1/codistillations/{pair.id}/record", params=params)
            pages.append(Record.model_validate(answer.json()))
            cursor = pages[-1].next_cursor
            assert len(pages[-1].a.heard) <= limit
        assert len(pages) == -(-7 // limit) and joined(pages) == whole
    for bad in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}):
        assert house.http().get(f"/v1/codistillations/{pair.id}/record", params=bad).status_code == 422


def _report(house: House, pair: Codistillation, fence: int, step: int, version: int, **metrics: float) -> None:
    answers = [PeerAnswers(kind="score", version=version, lag=step - 1, count=8)]
    ledger = Ledger(teachers={"peer": TeacherLedger(answers=answers)})
    report = StepReport(step=step, metrics={"loss": 0.5, **metrics}, ledger=ledger)
    house.admin.runs.report(pair.a.run, StepsReport(fence=fence, steps=[report]))
