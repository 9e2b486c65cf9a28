"""The worker's Celery application: runs and debates in threads, the broker served from the main thread.

The pool is a pool of one thread where runs are taken, for a run has the machine to itself. A process pool would fork
after torch has started threads, and would leave children behind when the worker is killed; `solo` would stop answering
the broker for as long as a run takes. A worker that takes only debates waits for teachers, mostly: it holds several at
a time, and never imports torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

from celery import Celery, Task, signals

from preceptor.errors import Overloaded, PreceptorError, ServerFault, Unreachable
from preceptor_services.queue import ADVANCE_RUN, DEBATES_QUEUE, HOLD_DEBATE, RUNS_QUEUE, celery_app, without_password
from preceptor_services.worker.bench import Bench, open_bench
from preceptor_services.worker.debate import hold
from preceptor_services.worker.settings import WorkerSettings

RETRY_SECONDS = 5
_log = logging.getLogger(__name__)


class Takes(StrEnum):
    """What a worker takes from the broker."""

    ALL = "all"
    RUNS = "runs"
    DEBATES = "debates"

    @property
    def queues(self) -> list[str]:
        """Where that waits."""
        queues = {Takes.RUNS: [RUNS_QUEUE], Takes.DEBATES: [DEBATES_QUEUE]}
        return queues.get(self, [RUNS_QUEUE, DEBATES_QUEUE])


def create_worker(settings: WorkerSettings, takes: Takes) -> tuple[Celery, Bench]:
    """The Celery application with its tasks, and what they work with: one task advances a run, the other holds a
    debate."""
    app = celery_app(settings.broker_url.get_secret_value(), visibility_seconds=settings.visibility_timeout)
    if takes is Takes.DEBATES:
        bench = open_bench(settings)
    else:
        # Here and not above: it brings torch, which whoever takes only debates does without.
        from preceptor_services.worker.advance import advance, devices_here

        bench = open_bench(settings, devices_here())
        _add(app, ADVANCE_RUN, "run", partial(advance, bench=bench))
    if takes is not Takes.RUNS:
        _add(app, HOLD_DEBATE, "debate", partial(hold, bench=bench))
    return app, bench


def _add(app: Celery, name: str, what: str, do: Callable[[str], object]) -> None:
    @app.task(name=name, bind=True, max_retries=None)
    def take_up(task: Task, id: str) -> None:  # pyright: ignore[reportUnusedFunction]
        try:
            do(id)
        except (Unreachable, Overloaded, ServerFault) as error:
            _log.warning(
                "%s %s: no lease could be asked for (%s); trying again in %d s", what, id, error, RETRY_SECONDS
            )
            raise task.retry(countdown=RETRY_SECONDS) from error
        except PreceptorError as error:  # a key that was revoked, for one: it stays queued for others
            _log.error("%s %s: no lease could be taken (%s)", what, id, error)


def run_worker(settings: WorkerSettings, *, log_format: logging.Formatter, takes: Takes = Takes.ALL) -> int:
    """Work until SIGTERM or SIGINT: then the step or the round in hand is finished, and the lease given back.

    Returns the exit code. A second signal ends the process at once; a run goes on elsewhere from its last checkpoint,
    and a debate after its last turn.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(log_format)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app, bench = create_worker(settings, takes)

    def on_shutdown(**_: Any) -> None:
        _log.info("told to stop: what is in hand is brought to where another worker can go on, and given back")
        bench.stopping.set()

    signals.worker_shutting_down.connect(on_shutdown, weak=False)
    signals.setup_logging.connect(_keep_logging, weak=False)
    broker, name = without_password(settings.broker_url.get_secret_value()), settings.worker_name
    _log.info("worker %s: takes %s, control plane %s, broker %s", name, takes, settings.url, broker)
    lonely = {"without_gossip": True, "without_mingle": True}  # workers need not know each other
    threads = settings.debates_at_once if takes is Takes.DEBATES else 1
    worker = app.Worker(
        pool_cls="threads",
        concurrency=threads,
        queues=takes.queues,
        loglevel="INFO",
        hostname=name,
        quiet=True,
        **lonely,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _keep_logging(**_: Any) -> None:
    """Connected to Celery's `setup_logging`, whose presence keeps Celery from changing the process's logging."""
