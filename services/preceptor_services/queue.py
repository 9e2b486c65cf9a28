"""The queue between the control plane and its workers: Celery over any server that speaks the Redis protocol.

A message carries one id, of a run or a debate, and nothing else, so that it can be delivered twice, late, or to any
machine: what is to be done stands in the database, and the right to do it is its lease. Messages are JSON; pickle is
never accepted.
"""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from celery import Celery
from kombu.exceptions import OperationalError

ADVANCE_RUN = "preceptor.advance_run"
"""Name of the task that advances one run; its only argument is the run's id."""
HOLD_DEBATE = "preceptor.hold_debate"
"""Name of the task that holds one debate; its only argument is the debate's id."""
RUNS_QUEUE = "preceptor.runs"
DEBATES_QUEUE = "preceptor.debates"
"""Their own, so that a worker may take runs alone, and another hold debates meanwhile."""
VISIBILITY_SECONDS = 3600
"""How long the broker waits for an acknowledgement before it hands a message to another worker."""

_PUBLISH_RETRY = {"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0}


class QueueUnavailable(RuntimeError):
    """The broker did not take a message. The run stays `queued` in the database and is enqueued again later."""


class Queue(Protocol):
    """What the control plane needs of a queue."""

    def enqueue_run(self, run_id: str) -> None:
        """Ask some worker to advance the run. Call it after the commit. Raises QueueUnavailable."""
        ...

    def enqueue_debate(self, debate_id: str) -> None:
        """Ask some worker to hold the debate. Call it after the commit. Raises QueueUnavailable."""
        ...


class CeleryQueue:
    """Sends by task name, so that the control plane never imports the worker. Safe to share between threads."""

    def __init__(self, broker_url: str, *, visibility_seconds: float = VISIBILITY_SECONDS) -> None:
        """`broker_url` may hold a password (`redis://:secret@host:6379/0`, `rediss://` for TLS)."""
        self._where = without_password(broker_url)
        self._app = celery_app(broker_url, visibility_seconds=visibility_seconds)

    def enqueue_run(self, run_id: str) -> None:
        self._send(ADVANCE_RUN, RUNS_QUEUE, run_id, f"run {run_id}")

    def enqueue_debate(self, debate_id: str) -> None:
        self._send(HOLD_DEBATE, DEBATES_QUEUE, debate_id, f"debate {debate_id}")

    def _send(self, task: str, queue: str, id: str, what: str) -> None:
        try:
            self._app.send_task(task, args=[id], queue=queue, retry=True, retry_policy=_PUBLISH_RETRY)
        except (OperationalError, OSError) as error:
            raise QueueUnavailable(
                f"The broker at {self._where} did not take the message for {what} ({error}). "
                "Start the broker, or correct PRECEPTOR_BROKER_URL."
            ) from error

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()


def celery_app(broker_url: str, *, visibility_seconds: float = VISIBILITY_SECONDS) -> Celery:
    """A Celery application set up for runs: hours long, one at a time, safe to deliver twice.

    A message is acknowledged when its task has ended, whichever way, so a killed worker's message comes back after
    `visibility_seconds`; a live worker's does too, and then finds the run's lease taken.
    """
    app = Celery("preceptor", broker=_verified(broker_url), set_as_current=False)
    transport: dict[str, Any] = {
        "visibility_timeout": visibility_seconds,
        # How often a worker looks for messages whose time is over; kombu's own 100 seconds would outlast a short one.
        "unacked_restore_interval": min(10.0, max(0.5, visibility_seconds / 4)),
        "unacked_restore_throttle": 1 if visibility_seconds < 600 else 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    app.conf.update(
        task_default_queue=RUNS_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        result_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport_options=transport,
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the run's lease decides, not the broker
        timezone="UTC",
    )
    return app


def _verified(url: str) -> str:
    """The URL with TLS certificates checked: left to itself, kombu takes any certificate behind `rediss://`.

    Whoever wants less, or an authority of their own, says so in the URL (`ssl_cert_reqs`, `ssl_ca_certs` ...).
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    given = dict(parse_qsl(parts.query))
    query = urlencode({"ssl_cert_reqs": "required", "ssl_check_hostname": "true", **given})
    return urlunsplit(parts._replace(query=query))


def without_password(url: str) -> str:
    """The URL as it may be logged or shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}{host}"))
