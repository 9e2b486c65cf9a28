"""A main thread elsewhere, for code whose time-outs are signals: only a process's main thread may set those.

A worker runs its loop in a thread. There, work is sent to one child process, which is started at the first call, kept,
and dies with the process that started it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")


def in_main_thread(seconds: float, work: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
    """What `work` gives, here where this is a main thread, else in the child. Both must be picklable.

    Raises TimeoutError after `seconds` of the child's time, whatever it is doing, and BrokenProcessPool when the child
    died of it (memory, say); it is replaced then.
    """
    if threading.current_thread() is threading.main_thread():
        return work(*args, **kwargs)
    child = _child()
    try:
        return child.submit(work, *args, **kwargs).result(timeout=seconds)
    except TimeoutError as error:
        for process in list((child._processes or {}).values()):
            process.kill()
        _child.cache_clear()
        raise TimeoutError(f"no answer within {seconds:g} s") from error
    except BrokenProcessPool:
        _child.cache_clear()  # whoever comes next gets a new one; this call's failure is no verdict
        raise


@lru_cache(maxsize=1)
def _child() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"), initializer=_die_with_parent)


def _die_with_parent() -> None:
    """A killed parent closes nothing down: the child watches it, and ends when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "this runs in a child"

    def watch(sentinel: int = parent.sentinel) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
