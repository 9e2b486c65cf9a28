"""Whatever leaves the loop becomes one sentence of cause and one of remedy, with the step."""

from __future__ import annotations

from errno import ENOSPC

import pytest
from pydantic import BaseModel, ValidationError

from preceptor.errors import BadScores, NotFound
from preceptor_services.worker.failures import problem_of
from preceptor_trainer.checkpoint import CheckpointError


@pytest.mark.parametrize(
    ("error", "slug", "words"),
    [
        (
            BadScores("tiny: NaN at position 3.", teacher="tiny"),
            "bad-scores",
            "tiny: NaN at position 3",
        ),
        (NotFound("There is no artifact."), "not-found", "There is no artifact"),
        (MemoryError("no more"), "out-of-memory", "microbatch_tokens"),
        (FloatingPointError("the loss is nan"), "diverged", "learning_rate"),
        (ValueError("words.jsonl is empty"), "cannot-train", "words.jsonl is empty"),
        (OSError("no such file"), "cannot-train", "no such file"),
        (OSError(ENOSPC, "No space left on device"), "cannot-write", "Make room on the worker w-1"),
        (
            CheckpointError("the checkpoint at step 6 could not be written"),
            "cannot-write",
            "the checkpoint after step 4",
        ),
        (KeyError("surprise"), "trainer-fault", "KeyError: 'surprise'"),
        (RuntimeError("line one\nline two"), "trainer-fault", "line one line two"),
    ],
)
def test_cause_and_remedy(error: Exception, slug: str, words: str) -> None:
    problem = problem_of(error, step=6, checkpoint_step=4, worker="w-1")
    assert problem.type == f"/problems/{slug}"
    assert problem.detail.startswith("Step 6: ")
    assert words in f"{problem.detail} {problem.remedy}"
    assert problem.remedy


def test_the_remedy_says_where_a_resume_goes_on() -> None:
    error = BadScores("tiny answered NaN.", teacher="tiny", remedy="Look at the teacher.")
    said = problem_of(error, step=6, checkpoint_step=4, worker="w-1").remedy
    assert said == "Look at the teacher. `preceptor runs resume` then goes on from the checkpoint after step 4."
    assert "from the beginning" in (problem_of(error, step=1, checkpoint_step=None, worker="w-1").remedy or "")


def test_a_recipe_of_another_version_is_said_to_be_one() -> None:
    class Recipe(BaseModel):
        rollout: int

    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"rollout": "of a later version"})
    problem = problem_of(caught.value, step=1, checkpoint_step=None, worker="w-1")
    assert problem.type == "/problems/another-version"
    assert "Recipe is not one that this worker knows: rollout: " in problem.detail
    assert "same version" in (problem.remedy or "") and "pydantic.dev" not in problem.detail


def test_a_very_long_message_is_cut() -> None:
    assert len(problem_of(RuntimeError("x" * 10**6), step=1, checkpoint_step=None, worker="w").detail) < 2100
