"""Plans become exact token ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from preceptor.errors import Invalid
from preceptor_trainer.draws import Job
from preceptor_trainer.model import Model, eos_ids, load_model, prompt_ids
from preceptor_trainer.parts.rollouts import Dataset, InTurns, Student
from preceptor_trainer.recipe import RolloutPolicy
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.views import Message, Plan, PlanView, Task, Turn
from preceptor_trainer.writer import CannotWrite, Writer, stream
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import ToyData


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))


def writer(model: Model, policy: RolloutPolicy, seed: int = 0) -> Writer:
    return Writer(policy, model, LocalSampler(model), seed)


TASKS = ToyData().train(1, 2, 0)


def test_a_group_shares_its_prompt_and_nothing_else(model: Model) -> None:
    rows = writer(model, Student(samples=3, max_tokens=8)).write(TASKS, 1)
    assert [(row.task.id, row.index) for row in rows] == [(task.id, i) for task in TASKS for i in range(3)]
    assert len({row.prompt_ids for row in rows}) == 2
    assert len({row.completion_ids for row in rows}) == 6
    assert all(row.logprobs is not None and len(row.logprobs) == len(row.completion_ids) for row in rows)
    assert all(row.prompt_ids == tuple(prompt_ids(model, row.task.messages)) for row in rows)


def test_a_step_is_written_the_same_again_and_differently_the_next(model: Model) -> None:
    policy = Student(samples=2, max_tokens=8)
    first = [row.completion_ids for row in writer(model, policy).write(TASKS, 5)]
    assert [row.completion_ids for row in writer(model, policy).write(TASKS, 5)] == first
    assert [row.completion_ids for row in writer(model, policy).write(TASKS, 6)] != first
    assert [row.completion_ids for row in writer(model, policy, seed=1).write(TASKS, 5)] != first


def test_a_dataset_s_completion_ends_like_a_rollout_and_has_no_sampler(model: Model) -> None:
    (row, _) = writer(model, Dataset()).write(TASKS, 1)
    assert row.logprobs is None and row.finished
    assert row.completion_ids[-1] in eos_ids(model)
    assert model.tokenizer.decode(row.completion_ids[:-1]) == row.text == TASKS[0].reference


def test_a_dataset_s_completion_keeps_to_the_horizon(model: Model) -> None:
    (row, _) = writer(model, Dataset(max_tokens=4)).write(TASKS, 1)
    assert len(row.completion_ids) == 4 and not row.finished


def test_a_task_without_a_reference_is_named(model: Model) -> None:
    with pytest.raises(ValueError, match=f"task {TASKS[0].id} has no reference to learn from"):
        writer(model, Dataset()).write([replace(TASKS[0], reference=None)], 1)


class _Odd(RolloutPolicy, kind="test_odd"):
    """Plans that differ from the ordinary in one way."""

    way: str
    """Which."""

    def plan(self, view: PlanView) -> Plan:
        turn = Turn(messages=view.task.messages)
        other = (Message(role="user", content="secret"),)
        return {
            "behaviour": Plan(turns=(turn,), behaviour=other),
            "horizon": Plan(turns=(turn,), max_tokens=2),
            "teacher": Plan(turns=(turn,), source="expert"),
            "turns": Plan(turns=(turn, turn)),
        }[self.way]


def test_a_behaviour_prompt_writes_but_never_enters_the_loss(model: Model) -> None:
    guided = writer(model, _Odd(way="behaviour", max_tokens=8)).write(TASKS, 1)
    plain = writer(model, Student(max_tokens=8)).write(TASKS, 1)
    assert [row.prompt_ids for row in guided] == [row.prompt_ids for row in plain]
    assert [row.completion_ids for row in guided] != [row.completion_ids for row in plain]


def test_a_plan_may_shorten_the_horizon(model: Model) -> None:
    assert all(len(row.completion_ids) <= 2 for row in writer(model, _Odd(way="horizon")).write(TASKS, 1))


@pytest.mark.parametrize(
    ("way", "says"), [("teacher", "teacher 'expert' cannot write"), ("turns", "the last is learned, and no other")]
)
def test_a_plan_that_cannot_be_carried_out_is_refused(model: Model, way: str, says: str) -> None:
    with pytest.raises(CannotWrite, match=says):
        writer(model, _Odd(way=way)).write(TASKS, 1)


@pytest.mark.parametrize("policy", [Student(max_tokens=8), Dataset(max_tokens=8), _Odd(way="behaviour", max_tokens=8)])
def test_a_row_that_the_student_has_no_positions_for_is_refused_by_its_words(
    model: Model, policy: RolloutPolicy
) -> None:
    long = Message(role="user", content="what is " + "so " * model.max_tokens + "long?")
    with pytest.raises(Invalid, match=r"A prompt of \d+ tokens \('what is so so .* completion of up to 8 do not fit"):
        writer(model, policy).write([TASKS[0], replace(TASKS[1], messages=(long,))], 1)


def test_streams_depend_on_all_their_parts() -> None:
    assert len({stream(0, "a", 1), stream(1, "a", 1), stream(0, "b", 1), stream(0, "a", 2), stream(0, "a")}) == 5
    assert stream(0, "a", 1) == stream(0, "a", 1)


def test_replies_to_earlier_turns_become_prompt_and_the_last_reply_is_the_rollout(model: Model) -> None:
    shards = ["ab", "cd", "dcba"]
    task = replace(TASKS[0], columns={"shards": shards})
    rows = writer(model, InTurns(samples=3, max_tokens=6)).write([task], 1)
    assert rows == writer(model, InTurns(samples=3, max_tokens=6)).write([task], 1)
    assert len({row.prompt_ids for row in rows}) == 3, "each has its own way there"
    for row in rows:
        spoken = iter(_replies(model, task, row.index))
        messages = [Message(role="user", content=shards[0])]
        for shard in shards[1:]:
            messages += [Message(role="assistant", content=next(spoken)), Message(role="user", content=shard)]
        assert row.prompt_ids == tuple(prompt_ids(model, messages))
        assert row.logprobs is not None and len(row.logprobs) == len(row.completion_ids) <= 6


def _replies(model: Model, task: Task, index: int) -> list[str]:
    """What the student says to all shards but the last, one turn at a time and alone."""
    replies, messages, shards = list[str](), list[Message](), task.columns["shards"]
    for number, shard in enumerate(shards[:-1]):
        messages.append(Message(role="user", content=shard))
        seed = stream(0, "sample", 1, task.id, index, len(shards) - number)
        job = Job(prompt_ids=tuple(prompt_ids(model, messages)), seed=seed, max_tokens=6)
        ((_, written),) = LocalSampler(model).stream([job], 1.0, None)
        replies.append(str(model.tokenizer.decode(list(written.token_ids), skip_special_tokens=True)))
        messages.append(Message(role="assistant", content=replies[-1]))
    return replies
