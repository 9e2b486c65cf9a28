"""Wishes that cannot be carried out: each is refused with one sentence that names the field, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.errors import Conflict
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.runs import RunState, Training
from preceptor.wire.teachers import Limits, Support, Values
from tests.contract.conftest import House
from tests.contract.doubles import write_model
from tests.contract.refusing import NOBODY, ROWS, caught, dataset, refused


def test_unknown_recipe(house: House):
    error = refused(house, recipe="opds")
    assert error.field == "recipe"
    assert "did you mean opd" in str(error)


@pytest.mark.parametrize(
    ("overrides", "field", "said"),
    [
        ({"rollot": {}}, "overrides.rollot", "Did you mean rollout?"),
        ({"rollout": {"max_tokns": 3}}, "overrides.rollout.max_tokns", "Did you mean max_tokens?"),
        ({"rollout": {"max_tokens": 0}}, "overrides.rollout.max_tokens", "greater than or equal to 1"),
        ({"rollout": {"max_tokens": "many"}}, "overrides.rollout.max_tokens", "'many'"),
        ({"rollout": 3}, "overrides.rollout", "got 3"),
        ({"rollout": None}, "overrides.rollout", "got None"),
        ({"objective": [{"kind": "js"}]}, "overrides.objective.0", "unknown Term kind 'js'"),
        ({"objective": []}, "overrides.objective", "at least one term"),
        ({"contexts": {"student": {"kind": "plain"}}}, "overrides.contexts", "reserved name"),
        ({"contexts": {"reference": {"kind": {"deep": 1}}}}, "overrides.contexts.reference", "unknown Context kind"),
        ({"teacher": {"kind": "ema", "decay": 1.0}}, "overrides.teacher.decay", "less than 1"),
        ({"target": {"kind": "each", "contexts": ["reference"] * 2}}, "overrides.target.contexts", "named twice"),
        ({"constraint": {"kind": "sparse", "share": 0}}, "overrides.constraint.share", "greater than 0"),
    ],
)
def test_overrides_that_do_not_fit(sqlite_house: House, overrides: dict[str, Any], field: str, said: str):
    error = refused(sqlite_house, overrides=overrides)
    assert error.field == field
    assert said in str(error)


@pytest.mark.parametrize(
    ("training", "field", "said"),
    [
        ({"step": 4}, "training.step", "Did you mean steps?"),
        ({"frobnicate": 4}, "training.frobnicate", "There are steps"),
        ({"learning_rate": -1}, "training.learning_rate", "greater than 0 (got -1)"),
        ({"learning_rate": "NaN"}, "training.learning_rate", "finite"),
        ({"steps": 0}, "training.steps", "greater than or equal to 1"),
        ({"steps": 2.5}, "training.steps", "2.5"),
        ({"betas": [0.9]}, "training.betas.1", "missing"),
        ({"betas": [0.9, 1.0]}, "training.betas.1", "less than 1"),
        ({"seed": 2**40}, "training.seed", "less than or equal to"),
        ({"schedule": "cosin"}, "training.schedule", "'constant', 'linear' or 'cosine'"),
        ({"schedule": "linear", "steps": 8}, "training.schedule", "no step left after 10 warmup_steps of 8 steps"),
        ({"final_learning_rate": 1e-5}, "training.final_learning_rate", "a constant schedule stays at its peak"),
        (
            {"steps": 80, "schedule": "cosine", "final_learning_rate": 0.1},
            "training.final_learning_rate",
            "above the peak",
        ),
        ({"lora": {"rank": 0}}, "training.lora.rank", "greater than or equal to 1"),
        ({"lora": {"rnk": 4}}, "training.lora.rnk", "Did you mean rank?"),
        ({"lora": {"targets": ["lm_head"]}}, "training.lora.targets", "lm_head takes no adapter here"),
        ({"lora": {"targets": []}}, "training.lora.targets", "there is no target"),
        ({"precision": "fp16"}, "training.precision", "'f32' or 'bf16'"),
        ({"devices": 0}, "training.devices", "greater than or equal to 1"),
        ({"devices": 5, "batch": 4}, "training.devices", "a step has 4 tasks (batch), and every device needs one"),
        ({"evaluate_temperature": 0.7}, "training.evaluate_temperature", "nothing is sampled in an evaluation"),
        ({"keep": "newest"}, "training.keep", "'last' or 'best'"),
        ({"early_stop": {"patience": 4}}, "training.early_stop", "never pass before the last of 40 steps"),
        (
            {"guards": {"entropy": {"action": "stop"}}},
            "training.guards.entropy.action",
            "'warn', 'pause' or 'rollback'",
        ),
        ({"guards": {"entropy": {}, "max_rollbacks": 5}}, "training.guards.max_rollbacks", "no guard rolls back"),
        ({"guards": {"length": {"threshold": 0.5}}}, "training.guards.length.threshold", "greater than 1"),
        ({"trackers": ["visdom"]}, "training.trackers.0", "'tensorboard', 'wandb' or 'mlflow'"),
        ({"trackers": ["wandb", "wandb"]}, "training.trackers", "wandb is named twice"),
    ],
)
def test_training_that_is_out_of_range(sqlite_house: House, training: dict[str, Any], field: str, said: str):
    error = refused(sqlite_house, training=training)
    assert error.field == field
    assert said in str(error)


def test_student_that_is_not_there(house: House):
    house.model()
    house.teacher()
    error = refused(house, student=NOBODY, teachers={"self": "spelling"})
    assert error.field == "student"
    assert "there is no artifact" in str(error)


def test_student_that_is_not_a_model(house: House):
    house.model()
    error = refused(house, student=dataset(house, ROWS))
    assert error.field == "student"
    assert "is a dataset, not a model" in str(error)


def test_student_that_was_never_completed(house: House):
    from preceptor.resources.artifacts import manifest_of
    from preceptor.wire.artifacts import ArtifactKind

    house.model()
    manifest = manifest_of(write_model(house.tmp / "half", vocab=("x", "y")), ArtifactKind.MODEL, "half")
    house.http().post("/v1/artifacts", content=manifest.model_dump_json(), headers={"Content-Type": "application/json"})
    error = refused(house, student=manifest.id)
    assert error.field == "student"
    assert "not been uploaded completely" in str(error)


def test_student_without_a_chat_template(house: House):
    error = refused(house, student=house.model(template=False))
    assert error.field == "student"
    assert "chat template" in str(error)


@pytest.mark.parametrize(
    ("teachers", "field", "said"),
    [
        ({}, "teachers.self", "needs a teacher for this role"),
        ({"self": "spelling", "critic": "spelling"}, "teachers.critic", "no such role; it has self"),
        ({"self": "speling"}, "teachers.self", "Did you mean spelling?"),
        ({"self": "x\x00y"}, "teachers.self", "there is no teacher"),
    ],
)
def test_teachers_that_do_not_fill_the_roles(sqlite_house: House, teachers: dict[str, str], field: str, said: str):
    sqlite_house.model()
    sqlite_house.teacher()
    error = refused(sqlite_house, teachers=teachers)
    assert error.field == field
    assert said in str(error)


def test_teacher_that_takes_no_runs(house: House):
    house.model()
    house.teacher()
    house.admin.teachers.drain("spelling")
    error = refused(house)
    assert error.field == "teachers.self"
    assert "is draining, and takes no new runs" in str(error)


def test_teacher_with_another_tokenizer(house: House):
    house.model()
    house.model("other", vocab=("d", "e", "f", "<end>"))
    house.teacher("foreign", model="other")
    error = refused(house, teachers={"self": "foreign"})
    assert error.field == "teachers.self"
    assert "reads other tokens than the student does" in str(error)
    assert 'set alignment = "bytes"' in str(error)


def abroad(house: House, **card: Any) -> dict[str, Any]:
    """A wish to learn, aligned by bytes, from a teacher with another tokenizer; `card` changes what it says."""
    house.model("other", vocab=("d", "e", "f", "<end>"))
    house.teacher("foreign", model="other", **card)
    return {"recipe": "opd", "teachers": {"teacher": "foreign"}, "alignment": "bytes"}


def test_teacher_with_another_tokenizer_that_is_aligned(house: House):
    wish = abroad(house)
    run = house.run(**wish)
    assert run.alignment == "bytes"
    assert house.admin.runs.get(run.id).alignment == "bytes"
    assert house.run().alignment == "ids"
    # A foreign tokenizer makes other lengths: what is too long for it shows when it is read.
    house.run(overrides={"rollout": {"max_tokens": 600}}, **wish)


def test_alignment_that_compares_whole_distributions(house: House):
    wish = {**abroad(house), "recipe": "opsd", "teachers": {"self": "foreign"}}
    error = refused(house, student=house.model(), **wish)
    assert error.field == "alignment"
    assert "needs the support topk: distributions over other tokens cannot be compared" in str(error)


def test_alignment_where_bytes_are_lost(sqlite_house: House):
    house = sqlite_house
    wish = abroad(house)
    tokenizer = house.admin.teachers.get("foreign").card.tokenizer  # pyright: ignore[reportOptionalMemberAccess]
    lossy = tokenizer.model_copy(update={"unalignable": "its normaliser Lowercase changes the bytes of a text"})
    house.teacher("lossy", model="other", tokenizer=lossy)
    error = refused(house, **{**wish, "teachers": {"teacher": "lossy"}})
    assert error.field == "alignment"
    assert "teacher lossy has a tokenizer that cannot be aligned by bytes: its normaliser Lowercase" in str(error)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"tokenizer_file": None}, "teacher foreign does not serve its tokenizer"),
        ({"supports": (Support.TOPK,)}, "needs the support sampled, and teacher foreign offers topk"),
    ],
)
def test_alignment_with_a_teacher_that_lacks_something(sqlite_house: House, card: dict[str, Any], said: str):
    error = refused(sqlite_house, **abroad(sqlite_house, **card))
    assert said in str(error)


def test_alignment_that_is_neither(sqlite_house: House):
    wish = sqlite_house.wish().model_dump(mode="json") | {"alignment": "words"}
    answer = sqlite_house.http().post("/v1/runs", json=wish)
    assert answer.status_code == 422
    assert answer.json()["field"] == "alignment"


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"supports": (Support.SAMPLED,)}, "needs the support full, topk or ids, and teacher odd offers sampled"),
        ({"values": Values.PROCESSED}, "tempered"),
    ],
)
def test_teacher_that_cannot_say_what_the_recipe_needs(sqlite_house: House, card: dict[str, Any], said: str):
    sqlite_house.model()
    sqlite_house.teacher("odd", **card)
    error = refused(sqlite_house, teachers={"self": "odd"})
    assert error.field == "teachers.self"
    assert said in str(error)


def test_teacher_with_another_number_of_outputs(house: House):
    from preceptor.fingerprint import tokenizer_card

    house.model()
    tokenizer = tokenizer_card(house.tmp / "tiny").model_copy(update={"vocab_size": 8})
    house.teacher("padded", tokenizer=tokenizer, supports=(Support.SAMPLED, Support.FULL))
    error = refused(house, teachers={"self": "padded"})
    assert "has 8 outputs and the student 4" in str(error)


def test_teacher_that_names_its_likeliest_tokens_only(sqlite_house: House):
    house = sqlite_house
    house.model()
    house.teacher("stock", supports=(Support.SAMPLED, Support.TOPK))
    error = refused(house, teachers={"self": "stock"}, overrides={"sparse": {"k": 1000}})
    assert error.field == "teachers.self"
    assert "asks for 1000 ids per token, and teacher stock gives" in str(error)
    error = refused(house, teachers={"self": "stock"}, overrides={"sparse": {"by": "student"}})
    assert "needs the support full or ids, and teacher stock offers sampled, topk" in str(error)
    house.run(teachers={"self": "stock"})


def test_completions_beyond_the_teachers_limit(house: House):
    error = refused(house, overrides={"rollout": {"max_tokens": 513}})
    assert error.field == "overrides.rollout.max_tokens"
    assert "up to 513 tokens do not fit teacher spelling, which reads 512" in str(error)


def test_prompts_beyond_the_teachers_limit(house: House):
    house.model()
    rows = [*ROWS, {**ROWS[0], "prompt": "a" * 5 * 400}]  # the longest token has 5 characters: 400 tokens at least
    data = DatasetSource(artifact=dataset(house, rows))
    limits = Limits(max_tokens=500, max_batch_tokens=65536, max_k=64, max_body_bytes=2**28)
    house.teacher("short", limits=limits)
    error = refused(house, teachers={"self": "short"}, data=data, overrides={"rollout": {"max_tokens": 101}})
    assert "after prompts of 400 tokens or more" in str(error)
    assert "Lower it to 100 or less" in str(error)
    house.run(teachers={"self": "short"}, data=data, overrides={"rollout": {"max_tokens": 100}})


@pytest.mark.parametrize(
    ("data", "field", "said"),
    [
        (TaskSource(task="spell_backwards"), "data.task", "Did you mean spell_backward?"),
        (TaskSource(task="spell_backward", options={"nope": 1}), "data.options", "nope"),
        (TaskSource(task="spell_backward", options={"min_word_len": "x"}), "data.options", "min_word_len"),
        (DatasetSource(artifact=NOBODY), "data.artifact", "there is no artifact"),
    ],
)
def test_data_that_is_not_there(sqlite_house: House, data: Any, field: str, said: str):
    error = refused(sqlite_house, data=data)
    assert error.field == field
    assert said in str(error)


def test_data_that_is_a_model(house: House):
    error = refused(house, data=DatasetSource(artifact=house.model()))
    assert error.field == "data.artifact"
    assert "is a model, not a dataset" in str(error)


@pytest.mark.parametrize(
    ("drop", "spec", "field", "said"),
    [
        ("prompt", {}, "data.columns", "neither a column 'prompt' nor 'messages'; it has answer, reference"),
        ("reference", {}, "data.columns", "context 'reference' needs the column 'reference', which the dataset lacks"),
        ("answer", {}, "data.columns", "verifier 'exact' needs the column 'answer'"),
        ("", {"columns": {"answr": "answer"}}, "data.columns.answr", "nothing reads a part of this name"),
        ("", {"columns": {"answer": "solution"}}, "data.columns.answer", "no column 'solution'; it has answer, prompt"),
        ("", {"verifier": "oracle"}, "data.verifier", "there is no verifier 'oracle'; there are disclosure, exact"),
        ("", {"held_out": 0.0}, "data.held_out", "without held-out rows"),
    ],
)
def test_datasets_without_what_is_needed(sqlite_house: House, drop: str, spec: dict[str, Any], field: str, said: str):
    rows = [{name: value for name, value in row.items() if name != drop} for row in ROWS]
    data = DatasetSource(artifact=dataset(sqlite_house, rows), **spec)
    error = refused(sqlite_house, data=data)
    assert error.field == field
    assert said in str(error)


def test_a_verifier_of_the_data_that_the_recipe_would_not_ask(sqlite_house: House):
    spec = DatasetSource(artifact=dataset(sqlite_house, ROWS), verifier="math")
    error = refused(sqlite_house, data=spec, overrides={"verifier": {"kind": "exact"}})
    assert error.field == "data.verifier"
    assert "judges by its own verifier ('exact')" in str(error)


def test_dataset_with_rows_that_ask_nothing(house: House):
    data = DatasetSource(artifact=dataset(house, [*ROWS, {"prompt": "", "answer": "1", "reference": "r"}]))
    error = refused(house, data=data)
    assert "only 300 of 301 rows have a prompt" in str(error)


def test_dataset_with_too_few_rows(house: House):
    data = DatasetSource(artifact=dataset(house, ROWS[:100]))
    error = refused(house, data=data)
    assert error.field == "data.artifact"
    assert "has 100 rows" in str(error)
    house.run(data=data, training={"batch": 4, "evaluate_items": 5})


def test_a_mapped_dataset_is_accepted(house: House):
    rows = [{"q": row["prompt"], "a": row["answer"], "why": row["reference"]} for row in ROWS]
    columns = {"prompt": "q", "answer": "a", "reference": "why"}
    run = house.run(data=DatasetSource(artifact=dataset(house, rows), columns=columns))
    assert isinstance(run.data, DatasetSource)
    assert run.data.columns == columns


def test_every_training_default_is_within_its_own_range():
    assert Training.model_validate(Training().model_dump()) == Training()


ADAPTERS = {"lora": {"rank": 4}}
EMA = {"teacher": {"kind": "ema"}}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        (
            {"teachers": {"self": "base"}, "training": ADAPTERS, "overrides": EMA},
            "teachers.self",
            "'base' stays as it is",
        ),
        (
            {"overrides": {"constraint": {"kind": "sparse"}}, "training": ADAPTERS},
            "training.lora",
            "recipe's constraint ('sparse')",
        ),
        ({"overrides": EMA}, "teachers.self", "teacher spelling takes no new weights"),
        (
            {"training": {"guards": {"tail": {}}}},
            "training.guards.tail",
            "no teacher of this run answers with a sparse",
        ),
        (
            {"recipe": "sft", "teachers": {}, "training": {"guards": {"repetition": {}}}},
            "training.guards.repetition",
            "learns from the data's completions",
        ),
        ({"overrides": {"sparse": {"k": 8}}}, "overrides.sparse", "no ids are chosen"),
        ({"recipe": "sft", "teachers": {}, "overrides": {"sparse": {"always": True}}}, "overrides.sparse", "no ids"),
    ],
)
def test_settings_that_could_have_no_effect(sqlite_house: House, changes: dict[str, Any], field: str, said: str):
    student = sqlite_house.model()
    teachers = {"self": spelling(sqlite_house)}
    error = refused(sqlite_house, **{"student": student, "teachers": teachers, **changes})
    assert error.field == field
    assert said in str(error)
    assert error.problem.remedy


def spelling(house: House, **changes: Any) -> str:
    """A teacher of the student's model."""
    return house.teacher(**changes).name


def test_a_lora_student_may_have_its_own_base_as_its_teacher(sqlite_house: House):
    run = sqlite_house.run(teachers={"self": "base"}, training={"steps": 4, **ADAPTERS})
    assert run.teachers == {"self": "base"}
    grant = sqlite_house.admin.runs.lease(run.id, "w")
    assert grant.teachers == {}, "nobody is asked over HTTP"
    assert grant.run.training.lora is not None and grant.run.training.lora.rank == 4


def test_nobody_may_be_registered_as_the_students_own_base(sqlite_house: House):
    sqlite_house.model()
    with pytest.raises(ValueError, match="'base' is what a run calls its LoRA student's own weights"):
        sqlite_house.teacher("base")


def test_a_teacher_that_is_moved_serves_one_run_alone(house: House):
    student = house.model()
    spelling(house, moves=True)
    spelling(house, name="other", moves=True)
    moving = house.run(student=student, overrides=EMA)
    error = caught(house, student=student)
    assert error.field == "teachers.self"
    assert f"used by run {moving.id}, and that run sends it new weights" in str(error)
    assert house.run(student=student, teachers={"self": "other"}).state is RunState.QUEUED
    error = caught(house, student=student, teachers={"self": "other"}, overrides=EMA)
    assert "and this run sends it new weights" in str(error)
    house.admin.runs.cancel(moving.id)
    frozen = house.run(student=student)
    with pytest.raises(Conflict, match=f"Teacher spelling is used by run {frozen.id}, and this run sends it"):
        house.admin.runs.resume(moving.id)
