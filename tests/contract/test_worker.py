"""Runs as their workers know them: leases, reports, checkpoints, and what happens when a worker is lost."""

from __future__ import annotations

import csv
import io
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from preceptor.errors import Conflict, Invalid, LeaseLost, NotFound
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.common import Problem
from preceptor.wire.runs import (
    CheckpointRef,
    CheckpointReport,
    Finish,
    LeaseGrant,
    Note,
    RunState,
    StepReport,
    StepsReport,
)
from preceptor_services.api.sweeper import end_leases
from tests.contract.conftest import House
from tests.contract.reports import evaluation, result, sample, step, steps


def take(house: House, worker: str = "w", **changes: object) -> LeaseGrant:
    return house.admin.runs.lease(house.run(**changes).id, worker)


def checkpoint(house: House, text: str = "weights") -> str:
    folder = house.tmp / f"checkpoint-{text}"
    folder.mkdir(exist_ok=True)
    (folder / "state.safetensors").write_text(text)
    return house.admin.artifacts.push(folder, "checkpoint", f"checkpoint-{text}")


# -- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_says_all_that_a_worker_has_to_know(house: House):
    lease = take(house, "gpu-1")
    assert lease.run.state is RunState.RUNNING
    assert (lease.fence, lease.run.fence, lease.run.attempt, lease.run.worker) == (1, 1, 1, "gpu-1")
    assert lease.ttl_seconds == house.settings.lease_seconds
    assert lease.recorded_step == 0
    teacher = lease.teachers["self"]
    assert (teacher.name, teacher.url, teacher.key_env) == ("spelling", "http://127.0.0.1:1/spelling", None)
    assert teacher.card.limits.max_tokens == 512


def test_of_two_workers_one_gets_the_lease(house: House):
    lease = take(house, "first")
    with pytest.raises(Conflict, match="is held by first until"):
        house.admin.runs.lease(lease.run.id, "second")


def test_of_many_workers_at_once_one_gets_the_lease(house: House):
    run = house.run()
    gate = threading.Barrier(8)

    def race(number: int) -> int | None:
        gate.wait()
        try:
            return house.admin.runs.lease(run.id, f"w{number}").fence
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(race, range(8)))
    assert sorted(fence for fence in fences if fence is not None) == [1]
    assert house.admin.runs.get(run.id).attempt == 1


def test_of_many_workers_one_takes_over_an_expired_lease(house: House):
    lease = take(house, "lost")
    house.clock.pass_seconds(house.settings.lease_seconds + 1)
    gate = threading.Barrier(6)

    def race(number: int) -> int | None:
        gate.wait()
        try:
            return house.admin.runs.lease(lease.run.id, f"w{number}").fence
        except Conflict:
            return None

    with ThreadPoolExecutor(6) as pool:
        fences = list(pool.map(race, range(6)))
    assert [fence for fence in fences if fence is not None] == [2]
    moves = [(event.data["from"], event.data["to"]) for event in states(house, lease.run.id)]
    assert moves[-3:] == [("queued", "running"), ("running", "queued"), ("queued", "running")]


def test_a_heartbeat_makes_the_lease_last(house: House):
    lease = take(house)
    for _ in range(5):
        house.clock.pass_seconds(house.settings.lease_seconds * 0.8)
        house.admin.runs.heartbeat(lease.run.id, lease.fence)
    end_leases(house.plane)
    assert house.admin.runs.get(lease.run.id).state is RunState.RUNNING


def test_a_silent_worker_loses_its_lease_and_can_do_nothing_more(house: House):
    lease = take(house)
    run_id = lease.run.id
    house.clock.pass_seconds(house.settings.lease_seconds + 1)
    end_leases(house.plane)
    assert house.admin.runs.get(run_id).state is RunState.QUEUED
    assert house.queue.sent == [run_id, run_id]
    second = house.admin.runs.lease(run_id, "other")
    before = house.admin.runs.get(run_id)
    artifact = checkpoint(house)
    for attempt in (
        lambda: house.admin.runs.heartbeat(run_id, lease.fence),
        lambda: house.admin.runs.report(run_id, steps(lease.fence, 1)),
        lambda: house.admin.runs.note(run_id, Note(fence=lease.fence, data={})),
        lambda: house.admin.runs.checkpoint(run_id, CheckpointReport(fence=lease.fence, step=0, artifact=artifact)),
        lambda: house.admin.runs.finish(run_id, Finish(fence=lease.fence, state=RunState.CANCELLED)),
        lambda: house.admin.runs.release(run_id, lease.fence),
    ):
        with pytest.raises(LeaseLost, match=r"The lease with fence 1 on run .* is held by other \(fence 2\)"):
            attempt()
    assert house.admin.runs.get(run_id) == before
    assert house.admin.runs.heartbeat(run_id, second.fence).cancel is False


def test_a_lease_that_ran_out_is_good_until_somebody_takes_it(house: House):
    lease = take(house)
    house.clock.pass_seconds(house.settings.lease_seconds + 1)
    house.admin.runs.heartbeat(lease.run.id, lease.fence)
    end_leases(house.plane)
    assert house.admin.runs.get(lease.run.id).fence == lease.fence


def test_a_lease_is_given_back(house: House):
    lease = take(house)
    house.admin.runs.release(lease.run.id, lease.fence)
    house.admin.runs.release(lease.run.id, lease.fence)
    assert house.admin.runs.get(lease.run.id).state is RunState.QUEUED
    assert house.queue.sent == [lease.run.id, lease.run.id]
    again = house.admin.runs.lease(lease.run.id, "other")
    assert (again.fence, again.run.attempt) == (2, 2)


def test_a_cancelled_run_of_a_lost_worker_ends_cancelled(house: House):
    lease = take(house)
    house.admin.runs.cancel(lease.run.id)
    house.clock.pass_seconds(house.settings.lease_seconds + 1)
    with pytest.raises(Conflict, match="is being cancelled"):
        house.admin.runs.lease(lease.run.id, "other")
    end_leases(house.plane)
    assert house.admin.runs.get(lease.run.id).state is RunState.CANCELLED
    assert house.queue.sent == [lease.run.id]


def test_a_lease_on_nothing(house: House):
    with pytest.raises(NotFound):
        house.admin.runs.lease("run-0", "w")


# -- reports ----------------------------------------------------------------------------------------------------------


def test_steps_are_recorded_and_read_back(house: House):
    lease = take(house)
    house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 2))
    house.admin.runs.report(lease.run.id, steps(lease.fence, 3))
    assert house.admin.runs.get(lease.run.id).step == 3
    found = list(house.admin.runs.metrics(lease.run.id))
    assert found == [step(1, loss=1.0), step(2, loss=0.5), step(3, loss=1 / 3)]
    assert [each.step for each in house.admin.runs.metrics(lease.run.id, after=2)] == [3]


def test_a_report_whose_answer_was_lost_is_sent_again_and_changes_nothing(house: House):
    lease = take(house)
    report = steps(lease.fence, 1, samples=[sample(1), sample(1)], evaluations=[evaluation(0)])
    house.admin.runs.report(lease.run.id, report)
    house.admin.runs.report(lease.run.id, report)
    kinds = [event.kind for event in house.admin.runs.events(lease.run.id, follow=False)]
    assert kinds == ["state", "state", "step", "evaluation"]
    assert len(list(house.admin.runs.samples(lease.run.id))) == 2
    assert len(house.admin.runs.evaluations(lease.run.id)) == 1


def test_a_resumed_run_records_no_step_twice_and_leaves_none_out(house: House):
    lease = take(house)
    run_id = lease.run.id
    house.admin.runs.report(run_id, steps(lease.fence, 1, 2))
    artifact = checkpoint(house)
    house.admin.runs.checkpoint(run_id, CheckpointReport(fence=lease.fence, step=2, artifact=artifact))
    house.admin.runs.report(run_id, steps(lease.fence, 3))
    house.clock.pass_seconds(house.settings.lease_seconds + 1)
    second = house.admin.runs.lease(run_id, "other")
    assert second.run.checkpoint == CheckpointRef(step=2, artifact=artifact)
    assert second.recorded_step == 3
    replayed = StepsReport(fence=second.fence, steps=[step(3, loss=99.0)], samples=[sample(3)])
    house.admin.runs.report(run_id, replayed)
    house.admin.runs.report(run_id, steps(second.fence, 4))
    assert [each.metrics["loss"] for each in house.admin.runs.metrics(run_id)] == [1.0, 0.5, 1 / 3, 0.25]
    told = [event.data["step"] for event in house.admin.runs.events(run_id, follow=False) if event.kind == "step"]
    assert told == [1, 2, 3, 4]


def test_a_step_that_would_leave_a_gap_is_refused_with_all_that_came_with_it(house: House):
    lease = take(house)
    with pytest.raises(Conflict, match="step 3 would leave a gap; 1 is the last one recorded"):
        house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 3, evaluations=[evaluation(1)]))
    assert house.admin.runs.get(lease.run.id).step == 0
    assert house.admin.runs.evaluations(lease.run.id) == ()


def test_a_step_beyond_the_last_is_refused(house: House):
    lease = take(house, training={"steps": 1})
    with pytest.raises(Invalid, match=r"steps\.1\.step: the run has 1 steps; 2 is beyond them"):
        house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 2))


def test_numbers_that_json_does_not_have_survive(house: House):
    lease = take(house)
    odd = {"nan": math.nan, "up": math.inf, "down": -math.inf}
    house.admin.runs.report(lease.run.id, StepsReport(fence=lease.fence, steps=[step(1, **odd)], samples=[sample(1)]))
    (found,) = house.admin.runs.metrics(lease.run.id)
    assert math.isnan(found.metrics["nan"])
    assert (found.metrics["up"], found.metrics["down"]) == (math.inf, -math.inf)
    (kept,) = house.admin.runs.samples(lease.run.id)
    assert kept.tokens[0].teachers["reference"] == -math.inf
    told = [event for event in house.admin.runs.events(lease.run.id, follow=False) if event.kind == "step"]
    assert StepReport.model_validate(told[0].data).metrics["up"] == math.inf


def test_samples_keep_every_token_and_stamp(house: House):
    lease = take(house)
    kept = [sample(1, "ab"), sample(1, "c\x00"), sample(2, "\U0001f9d1\u200d\U0001f3eb")]
    house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 2, samples=kept))
    assert list(house.admin.runs.samples(lease.run.id)) == kept
    assert list(house.admin.runs.samples(lease.run.id, step=2)) == kept[2:]
    first = house.http().get(f"/v1/runs/{lease.run.id}/samples", params={"limit": 2}).json()
    assert len(first["items"]) == 2
    params = {"limit": 2, "cursor": first["next_cursor"]}
    second = house.http().get(f"/v1/runs/{lease.run.id}/samples", params=params).json()
    assert (len(second["items"]), second["next_cursor"]) == (1, None)


def test_a_sample_of_a_step_that_is_not_recorded_is_refused(house: House):
    lease = take(house)
    with pytest.raises(Conflict, match="step 2 is not recorded"):
        house.admin.runs.report(lease.run.id, steps(lease.fence, 1, samples=[sample(2)]))
    assert house.admin.runs.get(lease.run.id).step == 0


def test_evaluations_are_kept_with_their_hits_and_told_without(house: House):
    lease = take(house)
    house.admin.runs.report(lease.run.id, StepsReport(fence=lease.fence, evaluations=[evaluation(0)]))
    assert house.admin.runs.evaluations(lease.run.id) == (evaluation(0),)
    (told,) = [each for each in house.admin.runs.events(lease.run.id, follow=False) if each.kind == "evaluation"]
    assert told.data["accuracy"] == 0.6
    assert "hits" not in told.data


def test_metrics_as_csv(house: House):
    lease = take(house)
    reports = [step(1, loss=0.5), step(2, loss=math.nan, late=7.0)]
    house.admin.runs.report(lease.run.id, StepsReport(fence=lease.fence, steps=reports))
    rows = list(csv.DictReader(io.StringIO(house.admin.runs.metrics_csv(lease.run.id))))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert [row["loss"] for row in rows] == ["0.5", "nan"]
    assert [row["late"] for row in rows] == ["", "7.0"]
    assert rows[0]["seconds.sample"] == "0.5"
    assert rows[0]["idle.learn/scores"] == "0.125"
    assert rows[0]["tokens.sampled"] == "128"


def test_metrics_of_a_long_run_come_in_pages(house: House):
    lease = take(house, training={"steps": 1200})
    for start in range(1, 1200, 400):
        house.admin.runs.report(lease.run.id, steps(lease.fence, *range(start, start + 400)))
    assert [each.step for each in house.admin.runs.metrics(lease.run.id)] == list(range(1, 1201))
    assert len(house.admin.runs.metrics_csv(lease.run.id).splitlines()) == 1201


# -- checkpoints and the end ------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_counts(house: House):
    lease = take(house)
    house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 2))
    newer, older = checkpoint(house, "newer"), checkpoint(house, "older")
    house.admin.runs.checkpoint(lease.run.id, CheckpointReport(fence=lease.fence, step=2, artifact=newer))
    house.admin.runs.checkpoint(lease.run.id, CheckpointReport(fence=lease.fence, step=1, artifact=older))
    assert house.admin.runs.get(lease.run.id).checkpoint == CheckpointRef(step=2, artifact=newer)
    told = [event.data for event in house.admin.runs.events(lease.run.id, follow=False) if event.kind == "checkpoint"]
    assert told == [{"step": 2, "artifact": newer}]


def test_a_checkpoint_of_steps_that_are_not_recorded_is_refused(house: House):
    lease = take(house)
    report = CheckpointReport(fence=lease.fence, step=1, artifact=checkpoint(house))
    with pytest.raises(Conflict, match="the checkpoint is of step 1, and only 0 are recorded"):
        house.admin.runs.checkpoint(lease.run.id, report)


def test_the_newest_two_checkpoints_are_kept_and_what_they_share_with_others(house: House):
    lease = take(house)
    house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 2, 3, 4))
    pushed: list[str] = []
    for number in range(1, 5):
        folder = house.tmp / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "weights").write_text(f"of step {number}")
        (folder / "tokenizer.json").write_bytes((house.tmp / "tiny" / "tokenizer.json").read_bytes())
        pushed.append(house.admin.artifacts.push(folder, "checkpoint", f"step-{number}"))
        report = CheckpointReport(fence=lease.fence, step=number, artifact=pushed[-1])
        house.admin.runs.checkpoint(lease.run.id, report)
    assert [each.id for each in house.admin.artifacts.list(ArtifactKind.CHECKPOINT)] == [pushed[3], pushed[2]]
    for artifact in (pushed[2], pushed[3], lease.run.student):
        house.admin.artifacts.pull(artifact, house.tmp / "pulled" / artifact[7:])
    wholes = {path.name for path in house.settings.blob_dir.rglob("*") if len(path.name) == 64}
    named = {file.sha256 for each in house.admin.artifacts.list() for file in each.manifest.files}
    assert wholes == named


def test_a_checkpoint_that_another_run_goes_on_from_is_kept(house: House):
    first, second = take(house), take(house)
    shared, others = checkpoint(house, "shared"), [checkpoint(house, f"other{number}") for number in range(3)]
    for lease, artifacts in ((second, [shared]), (first, [shared, *others])):
        for artifact in artifacts:
            report = CheckpointReport(fence=lease.fence, step=0, artifact=artifact)
            house.admin.runs.checkpoint(lease.run.id, report)
    kept = {each.id for each in house.admin.artifacts.list(ArtifactKind.CHECKPOINT)}
    assert kept == {shared, *others[1:]}


def test_a_checkpoint_has_to_be_one(house: House):
    lease = take(house)
    report = CheckpointReport(fence=lease.fence, step=0, artifact=lease.run.student)
    with pytest.raises(Invalid, match="is a model, not a checkpoint"):
        house.admin.runs.checkpoint(lease.run.id, report)


def test_a_run_succeeds(house: House):
    lease = take(house)
    house.admin.runs.report(lease.run.id, steps(lease.fence, 1, 2, 3, 4))
    finish = Finish(fence=lease.fence, state=RunState.SUCCEEDED, result=result(lease.run.student))
    ended = house.admin.runs.finish(lease.run.id, finish)
    assert ended.state is RunState.SUCCEEDED
    assert ended.result == result(lease.run.student)
    assert ended.finished_at is not None
    assert house.admin.runs.finish(lease.run.id, finish) == ended, "asked again since the answer was lost"
    with pytest.raises(LeaseLost, match="is succeeded"):
        house.admin.runs.heartbeat(lease.run.id, lease.fence)


@pytest.mark.parametrize(
    ("finish", "field"),
    [
        ({"state": RunState.FAILED}, "error"),
        ({"state": RunState.SUCCEEDED}, "result"),
        ({"state": RunState.SUCCEEDED, "result": result("sha256:" + "0" * 64)}, "result.model"),
    ],
)
def test_an_end_without_what_it_needs_is_refused(house: House, finish: dict, field: str):
    lease = take(house)
    with pytest.raises(Invalid) as caught:
        house.admin.runs.finish(lease.run.id, Finish(fence=lease.fence, **finish))
    assert caught.value.field == field
    assert house.admin.runs.get(lease.run.id).state is RunState.RUNNING


def test_a_failed_run_says_why_and_keeps_its_checkpoint(house: House):
    lease = take(house)
    house.admin.runs.report(lease.run.id, steps(lease.fence, 1))
    artifact = checkpoint(house)
    house.admin.runs.checkpoint(lease.run.id, CheckpointReport(fence=lease.fence, step=1, artifact=artifact))
    problem = Problem(title="Bad scores", detail="Teacher spelling answered NaN at step 2.", status=502)
    house.admin.runs.finish(lease.run.id, Finish(fence=lease.fence, state=RunState.FAILED, error=problem))
    failed = house.admin.runs.get(lease.run.id)
    assert failed.error == problem
    assert failed.checkpoint == CheckpointRef(step=1, artifact=artifact)
    last = list(house.admin.runs.events(lease.run.id))[-2:]
    assert [event.kind for event in last] == ["error", "state"]
    assert last[1].data["reason"] == problem.detail


def states(house: House, run_id: str):
    return [event for event in house.admin.runs.events(run_id, follow=False) if event.kind == "state"]
