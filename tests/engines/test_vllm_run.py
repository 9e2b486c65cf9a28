"""A whole run that learns from a stock vLLM server, registered by URL: REST, queue, worker, vLLM, database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.adapters import Stock
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunCreate, RunState
from preceptor.wire.teachers import TeacherCreate, TeacherKind, TeacherState
from tests.engines.conftest import MODEL, free_port
from tests.platform.stack import OVERRIDES, TRAINING, Stack, answers, preceptor, running, steps_of

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as opened:
        yield opened


def create(client: Client, student: str, recipe: str, role: str, teacher: str) -> RunCreate:
    return RunCreate(
        name=f"{recipe}-from-{teacher}",
        recipe=recipe,
        overrides=OVERRIDES,
        student=student,
        teachers={role: teacher},
        data=TaskSource(kind="task", task="spell_backward"),
        training=TRAINING,
    )


def test_a_run_learns_from_it(stack: Stack, client: Client, vllm_url: str, stock: Stock, other_weights: Path) -> None:
    teacher = client.teachers.add(
        TeacherCreate(name="stock", url=vllm_url, kind=TeacherKind.VLLM, tokenizer=stock.tokenizer)
    )
    assert teacher.state is TeacherState.READY, teacher.probe
    stack.worker()
    # A student that is not its teacher: what it writes is news to it.
    student = client.artifacts.push(other_weights, "model", "other")
    run = client.runs.start(create(client, student, "opd", "teacher", "stock"))
    events = list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert steps_of(events) == list(range(1, TRAINING["steps"] + 1))
    check_ledger(client, run, "teacher", 70)
    (sample, *_) = client.runs.samples(run.id)
    stamp = sample.stamps["teacher"]
    assert stamp.engine.startswith("vllm ") and (stamp.teacher, stamp.temperature) == ("stock", 1.0)


def check_ledger(client: Client, run: Run, role: str, bytes_per_token: int) -> None:
    """Every rollout was scored over HTTP, and the bytes that passed were counted."""
    for step in client.runs.metrics(run.id):
        ledger = step.ledger
        asked = ledger.teachers[role]
        assert ledger.scored_sequences == ledger.stamped_sequences == ledger.contexts == asked.sequences > 0
        assert asked.tokens == ledger.tokens["completion"] > 0
        assert asked.bytes_received > bytes_per_token * asked.tokens and asked.bytes_sent > 0 and asked.head_bytes == 0
        assert asked.weights_versions == [0]


def test_a_run_of_whole_distributions_learns_from_its_likeliest_ids(client: Client, other_weights: Path) -> None:
    """JSD against what a stock server names, with all else as one event."""
    student = client.artifacts.push(other_weights, "model", "other")
    run = client.runs.start(create(client, student, "opsd", "self", "stock"))
    list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    check_ledger(client, run, "self", 500)
    for step in client.runs.metrics(run.id):
        assert 0 <= step.metrics["reference/tail"] < 0.5 and 0 < step.metrics["jsd"] < 0.7


def test_a_recipe_that_needs_more_is_refused_at_submit(client: Client, stack: Stack) -> None:
    student = client.artifacts.push(MODEL, "model", "tiny")
    wish = create(client, student, "opsd", "self", "stock")
    wide = wish.model_copy(update={"overrides": {**wish.overrides, "sparse": {"k": 60_000}}})
    with pytest.raises(Invalid, match=r"asks for 60000 ids per token, and teacher stock gives"):
        client.runs.start(wide)


def test_a_text_teacher_is_registered_and_trains_nothing(client: Client, vllm_url: str) -> None:
    writer = client.teachers.add(TeacherCreate(name="writer", url=f"{vllm_url}/v1", kind=TeacherKind.OPENAI))
    assert writer.state is TeacherState.READY and writer.card is not None and not writer.card.supports
    student = client.artifacts.push(MODEL, "model", "tiny")
    with pytest.raises(Invalid, match="is a text teacher"):
        client.runs.start(create(client, student, "opd", "teacher", "writer"))


def test_it_writes_the_rollouts_of_a_run(stack: Stack, client: Client, vllm_url: str, untied: Path) -> None:
    """Behind our service: the student's weights go to it before every step, and its tokens are what is learned from."""
    url = f"http://127.0.0.1:{free_port()}"
    options = ("--model", str(untied), "--name", "pen", "--takes-weights", "--port", url.rpartition(":")[2])
    engine = ("--backend", "vllm", "--engine-url", vllm_url)
    child = stack.spawn("pen", *preceptor("teacher", "serve", *options, *engine), TEACHER_KEY=stack.teacher_key)
    child.wait_until("ready", lambda: answers(f"{url}/readyz"))
    pen = client.teachers.add(TeacherCreate(name="pen", url=url, key_env="PRECEPTOR_TEACHER_KEY"))
    assert pen.card is not None and pen.card.writes and pen.card.moves and not pen.card.generates
    stack.worker()
    student = client.artifacts.push(untied, "model", "untied")
    wish = RunCreate(
        name="written-by-vllm",
        recipe="opsd",
        overrides=OVERRIDES,
        student=student,
        teachers={"self": "base"},
        sampler="pen",
        data=TaskSource(kind="task", task="spell_backward"),
        training={**TRAINING, "learning_rate": 5e-3, "lora": {"rank": 4, "alpha": 8}},
    )
    run = client.runs.start(wish)
    list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    versions = list[int]()
    for step in client.runs.metrics(run.id):
        written = step.ledger.teachers["sampler"]
        assert written.sequences == step.ledger.rollouts and written.tokens == step.ledger.tokens["completion"]
        assert 0 < step.metrics["sampler_gap"] < 1e-4 and step.metrics["sampler_gap/largest"] < 1e-3
        versions += written.weights_versions
    assert versions == list(range(versions[0], versions[0] + TRAINING["steps"])), "a version a step"
    child.stop()
