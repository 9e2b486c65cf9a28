"""Where the two are: on hosts of their own, or, where that is wanted or there can be none, on this machine as it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

from examples.common.apart import CONTROL, Apart, apart
from examples.common.hosts import NoHosts, why_impossible
from examples.common.stack import stack
from preceptor.client import Client
from preceptor.errors import PreceptorError
from preceptor.wire.codistillations import Codistillation

NAME = "codistill"
WORKERS = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running Preceptor with two workers, and what is to befall it."""

    client: Client
    console: Console
    apart: Apart | None = None
    """Its hosts; None: it is on this machine alone."""
    why: str = ""
    """Why it is."""
    link: str = "fast"
    cut_seconds: float = 0.0
    cuts: list[float] = field(default_factory=list[float])
    """How long each cut that was made has lasted."""

    @contextmanager
    def disturbed(self, run: str, step: int) -> Iterator[None]:
        """Once this run has done this step, the link between the two is cut, for as long as was asked for."""
        if not self.cut_seconds:
            yield
            return
        cutting = threading.Thread(target=self._cut, args=(run, step), daemon=True)
        cutting.start()
        yield
        cutting.join()

    def told(self, pair: Codistillation) -> dict[str, Any]:
        """Show where the two were and what passed between the hosts; the same for programs."""
        if self.apart is None:
            self.console.print(_notice(self.why))
            return {"hosts": 1, "why_one_host": self.why}
        hosts = self.apart.hosts
        if shared := hosts.shared_disks():
            raise PreceptorError(f"The hosts are not apart any more: more than one can write to {', '.join(shared)}.")
        for name, side in (("A", pair.a), ("B", pair.b)):
            self.console.print(
                f"  {name} was trained by {side.worker}, and answered at {side.url}", highlight=False, soft_wrap=True
            )
        passed = hosts.traffic()
        megabytes = ", ".join(f"{ends} {size / 1e6:.1f} MB" for ends, size in passed.items())
        self.console.print(
            f"  No two of the hosts can write to one disk. Between them passed {megabytes}.", soft_wrap=True
        )
        sides = {"A": pair.a.worker, "B": pair.b.worker}
        links = {"link": self.link, "cuts_seconds": self.cuts, "bytes": passed}
        return {"hosts": len(WORKERS), "sides": sides, "shared_disks": shared, **links}

    def _cut(self, run: str, step: int) -> None:
        assert self.apart is not None, "only hosts have links"
        with self.apart.client() as client:
            if not any(event.kind == "step" and event.data["step"] >= step for event in client.runs.events(run)):
                return
        self.console.print(f"  [yellow]The link between a and b is cut[/], for {self.cut_seconds:.0f} s")
        began = time.monotonic()
        self.apart.hosts.cut(*WORKERS)
        time.sleep(self.cut_seconds)
        self.apart.hosts.mend(*WORKERS)
        self.cuts.append(round(time.monotonic() - began, 1))
        self.console.print("  [yellow]It is mended[/]")


@contextmanager
def place(base: Path, console: Console, wanted: int | None, link: str, cut_seconds: float) -> Iterator[Place]:
    """Start it. `wanted`: on how many hosts; None: on two where this machine makes hosts, else on one, which is said.

    Raises NoHosts where two are wanted and there can be none.
    """
    why = "--hosts 1" if wanted == 1 else why_impossible()
    if why and wanted == 2:
        raise NoHosts(f"This machine makes no hosts of their own: {why}.", remedy="--hosts 1 runs both on it as it is.")
    if why:
        console.print(_notice(why))
        with stack(base, console, NAME, workers=len(WORKERS)) as running, running.client() as client:
            yield Place(client=client, console=console, why=why)
        return
    with apart(console, NAME, *WORKERS) as running, running.client() as client:
        hosts = running.hosts
        at = ", ".join(f"{host.name} {host.address}" for host in hosts.by_name.values())
        console.print(
            f"  three hosts, {at}: API and broker on {CONTROL}, a worker on each of the others", soft_wrap=True
        )
        if link == "slow":
            hosts.slow()
        yield Place(client=client, console=console, apart=running, link=link, cut_seconds=cut_seconds)


def _notice(why: str) -> Panel:
    text = (
        f"Both workers are on this machine: {why}.\n"
        "They share its disk and its network. What they learn is the same; that they need share neither is not shown. "
        "For that: Linux with /dev/net/tun, as root or where user namespaces are allowed; "
        "or containers, docker compose --profile codistill up."
    )
    return Panel(text, title="NOT on two hosts", border_style="bold red")
