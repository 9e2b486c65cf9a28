"""A pair by processes that teaches in words: who is better is asked for feedback, and nobody else is listened to."""

from __future__ import annotations

import subprocess

import pytest

from examples.tutor import lessons
from preceptor.client import Client
from preceptor.wire.codistillations import Codistillation, CodistillationCreate, CodistillationState, SideCreate
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.pairs import PairPolicy, step_of
from preceptor.wire.runs import RunCreate, RunState
from tests.platform.stack import MODEL, Stack, answers, free_port, preceptor
from tests.platform.test_codistillation import two_workers

STEPS, MAX_LAG = 3, 1
ROLLOUT = {"samples": 4, "max_tokens": 16}


@pytest.fixture(scope="module")
def tutor(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A student that spells and gives feedback, made from the shipped model by a supervised run."""
    two_workers(stack)
    rows = lessons.tutor(tmp_path_factory.mktemp("lessons") / "tutor.jsonl", 1000)
    with stack.client() as client:
        wish = RunCreate(
            name="makes-a-tutor",
            recipe="sft",
            overrides={"rollout": {"max_tokens": lessons.MAX_TOKENS}},
            student=client.artifacts.push(MODEL, "model", "tiny"),
            data=DatasetSource(
                kind="dataset",
                artifact=client.artifacts.push(rows, "dataset", "tutor"),
                columns={"prompt": "prompt", "answer": "answer", "reference": "reference"},
                verifier="exact",
                held_out=0.02,
            ),
            training={
                "steps": 50,
                "batch": 24,
                "learning_rate": 2e-3,
                "warmup_steps": 5,
                "schedule": "linear",
                "evaluate_every": 50,
                "evaluate_items": 12,
                "checkpoint_every": 50,
            },
        )
        run = client.runs.start(wish)
        list(client.runs.events(run.id))  # until it has ended
        done = client.runs.get(run.id)
    assert done.state is RunState.SUCCEEDED and done.result is not None and done.result.model, done.error
    return done.result.model


def side(student: str, name: str, gate: str, seed: int, own: str | None) -> SideCreate:
    """`own`: a teacher that takes weights, and follows the student; None: its self-teacher stays as it began."""
    words = {f"contexts.tutored.{field}": each for field, each in lessons.WORDS.items()}
    run = RunCreate(
        name=name,
        recipe="opcod",
        overrides={
            "contexts.tutored.kind": gate,
            "teacher": {"kind": "frozen"} if own is None else {"kind": "ema", "decay": 0.9},
            "rollout": ROLLOUT,
            **words,
        },
        student=student,
        teachers={"self": own or "base"},
        data=TaskSource(task="spell_backward"),
        training={
            "steps": STEPS,
            "batch": 4,
            "warmup_steps": 1,
            "checkpoint_every": STEPS,
            "evaluate_every": STEPS,
            "evaluate_items": 12,
            "seed": seed,
        },
    )
    return SideCreate(run=run)


def taught(client: Client, tutor: str, gate: str, own: tuple[str | None, str | None] = (None, None)) -> Codistillation:
    """A pair that has ended: a is the tutor, b the model that it was made from."""
    pupil = client.artifacts.push(MODEL, "model", "tiny")
    pair = client.codistillations.start(
        CodistillationCreate(
            name=f"by-{gate.replace('_', '-')}",
            a=side(tutor, f"{gate}-tutor", gate, 1, own[0]),
            b=side(pupil, f"{gate}-pupil", gate, 2, own[1]),
            policy=PairPolicy(max_lag=MAX_LAG, patience=60),
        )
    )
    for run in (pair.a.run, pair.b.run):
        list(client.runs.events(run))
    done = client.codistillations.get(pair.id)
    assert done.state is CodistillationState.SUCCEEDED, [client.runs.get(each.run).error for each in (done.a, done.b)]
    return done


def reconcile(client: Client, run: str, peer: str) -> int:
    """The texts that a run's ledger counts, each of a version that its peer published, and with its lag."""
    published, texts = {each.version for each in client.codistillations.published(peer).publications}, 0
    for step in client.runs.metrics(run):
        ledger = step.ledger.teachers["peer"]
        assert {each.kind for each in ledger.answers} <= {"feedback"}, "nobody asked for scores"
        assert sum(each.count for each in ledger.answers) == ledger.texts and not ledger.unwritten
        for each in ledger.answers:
            assert each.version in published
            assert each.lag == step.step - 1 - step_of(each.version) <= MAX_LAG
        texts += ledger.texts
    return texts


def moving(stack: Stack, client: Client, name: str) -> str:
    """A teacher of this name that takes weights."""
    url = f"http://127.0.0.1:{free_port()}"
    child = stack.start_teacher(url, name, "--takes-weights", log=name)
    child.wait_until("ready", lambda: answers(f"{url}/readyz"))
    stack.register_teacher(client, name, url)
    return name


def followed(client: Client, run: str, own: str) -> list[int]:
    """The versions of its own teacher that scored for a run: one in every step that asked it, and the next later. It
    was sent weights in every step."""
    card = client.teachers.get(own).card
    assert card is not None, "as it was before the run"
    asked = [step.ledger.teachers["self"] for step in client.runs.metrics(run)]
    versions = [version for each in asked for version in each.weights_versions]
    assert versions == sorted(set(versions))
    assert set(versions) <= set(range(card.weights_version + 1, card.weights_version + 1 + STEPS))
    assert all(each.weights_bytes > 0 for each in asked)
    return versions


def test_who_is_better_by_verified_outcomes_is_asked_for_feedback(stack: Stack, client: Client, tutor: str) -> None:
    """By self-teachers that follow their students: each side moves one, and is its peer's teacher itself."""
    own = moving(stack, client, "own-a"), moving(stack, client, "own-b")
    pair = taught(client, tutor, "better_tutor", own)
    record = client.codistillations.record(pair.id)
    assert not record.a.gates and not record.a.heard and not reconcile(client, pair.a.run, pair.b.run)
    assert [each.rollouts for each in record.a.feedback] == [0]
    assert not followed(client, pair.a.run, own[0]), "without feedback its self-teacher has nothing to read"
    assert followed(client, pair.b.run, own[1])

    (opened,) = record.b.gates
    assert opened.open and opened.peer > opened.own
    texts = reconcile(client, pair.b.run, pair.a.run)
    assert texts == sum(each.count for each in record.b.heard) > 0
    (given,) = record.b.feedback
    assert given.domain == "all" and given.rollouts > 0 and not record.b.unwritten
    shown = [step.metrics["feedback/all"] for step in client.runs.metrics(pair.b.run)]
    assert not any(shown[: opened.step - 1]) and sum(shown) == given.rollouts
    assert not record.a.unpublished and not record.b.unpublished
    assert not record.a.alone and not record.b.alone

    command = preceptor("codistill", "show", pair.id, "--no-plot", "--url", stack.url)
    told = subprocess.run(
        command, env=stack.environment(KEY=stack.admin_key), capture_output=True, text=True, check=True
    )
    assert "attempts with feedback" in told.stdout and str(given.rollouts) in told.stdout


def test_a_peer_that_solves_the_question_itself_is_asked_for_feedback(stack: Stack, client: Client, tutor: str) -> None:
    pair = taught(client, tutor, "tutored")
    record = client.codistillations.record(pair.id)
    for one, run, peer in ((record.a, pair.a.run, pair.b.run), (record.b, pair.b.run, pair.a.run)):
        assert reconcile(client, run, peer) == sum(each.count for each in one.heard) > 0, "each tried the questions"
        assert not one.unpublished and not one.alone and not one.gates
    (given,) = record.b.feedback
    assert given.rollouts > 0
    assert [each.rollouts for each in record.a.feedback] == [0], "the pupil knows no tags"
    assert record.a.unreadable > 0, "but solves some of the questions, and is asked about those"
