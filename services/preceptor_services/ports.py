"""Ports of this machine: one that nobody has, or the one that somebody wants."""

from __future__ import annotations

import socket

from preceptor_services.supervisor import StartFailed

LOOPBACK = "127.0.0.1"


def free() -> int:
    """One that nobody has."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def chosen(wanted: int, host: str, last: int | None, option: str) -> int:
    """The port that is wanted; with 0 the `last` one where nobody has it, else any. Raises StartFailed, naming the
    option, where somebody has the one that is wanted."""
    if wanted:
        if not _is_free(wanted, host):
            raise StartFailed(
                f"Port {wanted} on {host} is taken. Stop what listens there, or choose another with {option} (0: any)."
            )
        return wanted
    return last if last is not None and _is_free(last, host) else free()


def _is_free(port: int, host: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
