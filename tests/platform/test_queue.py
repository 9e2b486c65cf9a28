"""What travels over the broker: one id as JSON, and nothing that could run code."""

from __future__ import annotations

import base64
import json
import pickle  # noqa: TID251  what a hostile message is made of
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu.exceptions import ContentDisallowed
from kombu.serialization import prepare_accept_content

from preceptor_services.queue import (
    ADVANCE_RUN,
    DEBATES_QUEUE,
    HOLD_DEBATE,
    RUNS_QUEUE,
    CeleryQueue,
    QueueUnavailable,
    celery_app,
)
from tests.platform.stack import Stack, free_port


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    stack = Stack(tmp_path_factory.mktemp("broker"), "sqlite://")
    try:
        stack.start_broker()
        yield stack.broker_url
    finally:
        stack.close()


def test_a_message_is_one_id_in_json_in_the_queue_of_its_kind(broker_url: str) -> None:
    queue = CeleryQueue(broker_url)
    queue.enqueue_run("run-1")
    queue.enqueue_debate("debate-1")
    queue.close()
    for waits, task, id in ((RUNS_QUEUE, ADVANCE_RUN, "run-1"), (DEBATES_QUEUE, HOLD_DEBATE, "debate-1")):
        with redis.Redis.from_url(broker_url) as server:
            message = json.loads(server.lpop(waits))  # pyright: ignore[reportArgumentType]
            assert server.llen(waits) == 0
        assert message["content-type"] == "application/json"
        assert message["headers"]["task"] == task
        arguments, named, embedded = json.loads(base64.b64decode(message["body"]))
        assert (arguments, named) == ([id], {})
        assert not any(embedded.values())


def test_a_pickled_message_is_refused(broker_url: str, tmp_path: Path) -> None:
    """Its bytes are never unpickled, so what hides in them does not run."""
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trap,))

    queue = CeleryQueue(broker_url)
    queue.enqueue_run("run-1")
    queue.close()
    with redis.Redis.from_url(broker_url) as server:
        message = json.loads(server.lpop(RUNS_QUEUE))  # pyright: ignore[reportArgumentType]
        body = base64.b64encode(pickle.dumps(Trap())).decode()
        message |= {"content-type": "application/x-python-serialize", "content-encoding": "binary", "body": body}
        server.rpush(RUNS_QUEUE, json.dumps(message))
    app = celery_app(broker_url)
    with app.connection_for_read() as connection:
        received = connection.SimpleQueue(RUNS_QUEUE)
        received.consumer.accept = prepare_accept_content(app.conf.accept_content)
        with pytest.raises(ContentDisallowed):
            received.get(timeout=5)
        received.close()
    app.close()
    assert not trap.exists()


@pytest.mark.parametrize(
    ("url", "checks"),
    [
        ("rediss://:pw@broker.example:6380/0", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}),
        (
            "rediss://:pw@broker.example:6380/0?ssl_ca_certs=/etc/ours.pem",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": "/etc/ours.pem"},
        ),
        (
            "rediss://:pw@broker.example:6380/0?ssl_cert_reqs=none",
            {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": True},
        ),
        ("redis://:pw@broker.example:6379/0", False),
    ],
)
def test_certificates_are_checked_unless_the_url_says_otherwise(url: str, checks: object) -> None:
    with celery_app(url) as app, app.connection_for_write() as connection:
        assert connection.ssl == checks


def test_a_broker_that_is_not_there_is_named_without_its_password() -> None:
    port = free_port()
    queue = CeleryQueue(f"redis://:secret@127.0.0.1:{port}/0")
    with pytest.raises(QueueUnavailable, match=rf"127\.0\.0\.1:{port}.*PRECEPTOR_BROKER_URL") as caught:
        queue.enqueue_run("run-1")
    queue.close()
    assert "secret" not in str(caught.value)
