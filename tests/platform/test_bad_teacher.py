"""A teacher that answers with NaN in mid-run: the run fails, says who and when, and loses nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from preceptor.client import Client
from preceptor.wire.runs import RunState
from tests.platform import bad_teacher
from tests.platform.stack import Stack, answers, free_port, steps_of, until


def test_nan_from_a_teacher_fails_the_run_with_its_name_and_step(stack: Stack, client: Client, tmp_path: Path) -> None:
    port, spoil = free_port(), tmp_path / "spoil"
    url = f"http://127.0.0.1:{port}"
    child = stack.spawn("spoiler", sys.executable, bad_teacher.__file__, stack.teacher_url, str(port), str(spoil))
    child.wait_until("answering", lambda: answers(f"{url}/healthz"))
    stack.register_teacher(client, "spoiler", url)
    stack.worker()

    run = stack.start_run(client, "spoiled", teacher="spoiler", steps=20, checkpoint_every=1, evaluate_every=20)
    events = client.runs.events(run.id)
    until(events, lambda event: event.kind == "checkpoint" and event.data["step"] == 2)
    spoil.touch()
    seen = list(events)

    run = client.runs.get(run.id)
    assert run.state is RunState.FAILED and run.error is not None
    assert "spoiler" in run.error.detail
    assert f"Step {run.step + 1}:" in run.error.detail
    assert "NaN" in run.error.detail or "nan" in run.error.detail
    assert run.error.remedy is not None and "resume" in run.error.remedy
    assert run.checkpoint is not None and run.checkpoint.step == run.step >= 2, "the last good checkpoint is kept"
    assert [event.data["to"] for event in seen if event.kind == "state"] == ["failed"]

    spoil.unlink()
    client.runs.resume(run.id)
    assert steps_of(list(client.runs.events(run.id))) == list(range(1, 21))
    assert client.runs.get(run.id).state is RunState.SUCCEEDED
    child.stop()
