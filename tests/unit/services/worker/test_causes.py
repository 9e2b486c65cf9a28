"""Which rank is a run's cause: the first that says so, unless one could not say anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preceptor.wire.common import Problem
from preceptor_services.worker.causes import broken_off, exit_codes, first_cause, leave, lost, silent
from preceptor_services.worker.failures import cause_of, in_step


def problem(detail: str) -> Problem:
    return Problem(type="/problems/x", title="X", detail=detail, remedy="Do.", status=500)


def test_the_first_that_spoke_is_the_cause(tmp_path: Path) -> None:
    leave(tmp_path, 2, problem("mine"))
    leave(tmp_path, 0, problem("a connection broke"))
    cause = first_cause(tmp_path, range(3))
    assert cause is not None and (cause.rank, cause.problem.detail) == (2, "mine")
    assert first_cause(tmp_path, [1]) is None
    assert silent({2: 1, 0: 1, 1: -15}, tmp_path) is None, "torchrun has ended rank 1, and the others have spoken"


@pytest.mark.parametrize(
    ("code", "how"), [(-9, "killed by signal 9 (SIGKILL)"), (137, "with exit code 137"), (0, "with exit code 0")]
)
def test_a_rank_that_ended_without_a_word_is_the_cause_whatever_others_say(tmp_path: Path, code: int, how: str) -> None:
    leave(tmp_path, 0, problem("a connection broke"))
    assert silent({0: 1, 1: code}, tmp_path) == 1
    said = in_step(lost(code, "w"), 3, 2, "rank 1 of 2: ")
    assert said.detail == f"Step 3: rank 1 of 2: Its process on worker w ended without a word, {how}."
    assert "`preceptor runs resume` then goes on from the checkpoint after step 2." in (said.remedy or "")


def test_exit_codes_are_what_torchrun_has_accounted_for(tmp_path: Path) -> None:
    assert exit_codes(tmp_path / "account.json") == {}
    (tmp_path / "account.json").write_text(json.dumps({"1": -9, "0": 1}))
    assert exit_codes(tmp_path / "account.json") == {1: -9, 0: 1}


def test_a_broken_connection_is_told_from_a_fault_of_ones_own() -> None:
    error = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:1")
    said = broken_off(error)
    assert said is not None and "Another rank ended without a word" in said.detail and "10.0.0.2" in said.detail
    assert broken_off(RuntimeError("shapes do not match")) is None
    assert broken_off(ValueError("gloo")) is None


def test_a_failure_that_a_resume_would_run_into_again_is_not_told_to_resume() -> None:
    said = in_step(cause_of(ValueError("no such layer"), "w"), 1, None, "rank 0 of 2: ")
    assert said.detail == "Step 1: rank 0 of 2: no such layer" and "resume" not in (said.remedy or "")
