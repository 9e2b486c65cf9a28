"""The worker's Celery application: one run or debate at a time in a thread, the broker served from the main thread.

The pool is a pool of one thread. A process pool would fork after torch has started threads, and would leave children
behind when the worker is killed; `solo` would stop answering the broker for as long as a run takes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from celery import Celery, Task, signals

from preceptor.errors import Overloaded, PreceptorError, ServerFault, Unreachable
from preceptor_services.queue import ADVANCE_RUN, HOLD_DEBATE, celery_app, without_password
from preceptor_services.worker.advance import advance
from preceptor_services.worker.bench import Bench, open_bench
from preceptor_services.worker.debate import hold
from preceptor_services.worker.settings import WorkerSettings

RETRY_SECONDS = 5
_log = logging.getLogger(__name__)


def create_worker(settings: WorkerSettings, bench: Bench) -> Celery:
    """The Celery application with its tasks: one advances a run, the other holds a debate."""
    app = celery_app(settings.broker_url.get_secret_value(), visibility_seconds=settings.visibility_timeout)

    @app.task(name=ADVANCE_RUN, bind=True, max_retries=None)
    def advance_run(task: Task, run_id: str) -> None:  # pyright: ignore[reportUnusedFunction]
        _take_up(task, f"run {run_id}", lambda: advance(run_id, bench))

    @app.task(name=HOLD_DEBATE, bind=True, max_retries=None)
    def hold_debate(task: Task, debate_id: str) -> None:  # pyright: ignore[reportUnusedFunction]
        _take_up(task, f"debate {debate_id}", lambda: hold(debate_id, bench))

    return app


def _take_up(task: Task, what: str, do: Callable[[], object]) -> None:
    try:
        do()
    except (Unreachable, Overloaded, ServerFault) as error:
        _log.warning("%s: no lease could be asked for (%s); trying again in %d s", what, error, RETRY_SECONDS)
        raise task.retry(countdown=RETRY_SECONDS) from error
    except PreceptorError as error:  # a key that was revoked, for one: it stays queued for others
        _log.error("%s: no lease could be taken (%s)", what, error)


def run_worker(settings: WorkerSettings, *, log_format: logging.Formatter) -> int:
    """Work until SIGTERM or SIGINT: then the step in hand is finished, checkpointed, and the lease given back.

    Returns the exit code. A second signal ends the process at once; the run goes on elsewhere from its last checkpoint.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(log_format)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    bench = open_bench(settings)
    app = create_worker(settings, bench)

    def on_shutdown(**_: Any) -> None:
        _log.info("told to stop: the step in hand is finished and checkpointed first")
        bench.stopping.set()

    signals.worker_shutting_down.connect(on_shutdown, weak=False)
    signals.setup_logging.connect(_keep_logging, weak=False)
    broker = without_password(settings.broker_url.get_secret_value())
    _log.info("worker %s: control plane %s, broker %s", settings.worker_name, settings.url, broker)
    lonely = {"without_gossip": True, "without_mingle": True}  # workers need not know each other
    name = settings.worker_name
    worker = app.Worker(pool_cls="threads", concurrency=1, loglevel="INFO", hostname=name, quiet=True, **lonely)
    worker.start()
    return int(worker.exitcode or 0)


def _keep_logging(**_: Any) -> None:
    """Connected to Celery's `setup_logging`, whose presence keeps Celery from changing the process's logging."""
