"""A run whose teacher reads what a text teacher wrote, each a process of its own."""

from __future__ import annotations

from preceptor.client import Client
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import RunCreate, RunState
from tests.platform.stack import MODEL, OVERRIDES, TRAINING, Stack, answers, free_port, preceptor

STEPS, BATCH = 2, 4


def test_a_critic_of_rules_writes_for_every_rollout(stack: Stack, client: Client) -> None:
    stack.worker()
    url = f"http://127.0.0.1:{free_port()}"
    options = ("--backend", "scripted", "--name", "critic", "--port", url.rpartition(":")[2])
    critic = stack.spawn("critic", *preceptor("teacher", "serve", *options), TEACHER_KEY=stack.teacher_key)
    critic.wait_until("answering", lambda: answers(f"{url}/healthz"))
    stack.register_teacher(client)
    stack.register_teacher(client, "critic", url)
    wish = RunCreate(
        name="criticised",
        recipe="step_critique",
        overrides={**OVERRIDES, "teacher": {"kind": "frozen"}},
        student=client.artifacts.push(MODEL, "model", "tiny"),
        teachers={"self": "tiny", "critic": "critic"},
        data=TaskSource(kind="task", task="spell_backward"),
        training={**TRAINING, "steps": STEPS, "batch": BATCH},
    )
    run = client.runs.start(wish)
    list(client.runs.events(run.id))  # until it has ended
    done = client.runs.get(run.id)
    assert done.state is RunState.SUCCEEDED, done.error
    steps = list(client.runs.metrics(run.id))
    assert len(steps) == STEPS
    for step in steps:
        ledger = step.ledger.teachers["critic"]
        assert 0 < ledger.texts <= step.ledger.rollouts and ledger.requests >= ledger.texts
        assert (ledger.unwritten, ledger.unreadable, ledger.sequences) == (0, 0, 0)
        assert step.ledger.scored_sequences == step.ledger.rollouts
    samples = list(client.runs.samples(run.id))
    assert samples and all(
        stamp.wording and stamp.wording.startswith("critique@") for s in samples for stamp in s.stamps.values()
    )
    critic.stop()
