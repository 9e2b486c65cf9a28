"""The codistill example: it says where its two are, and its verdict is what its numbers say."""

from __future__ import annotations

import io
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from examples.codistill import __main__ as example
from examples.codistill import places
from examples.common import hosts
from preceptor.wire.codistillations import Codistillation

PAIR = cast(Codistillation, SimpleNamespace(id="pair-1"))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200, color_system=None)


def said(console: Console) -> str:
    return cast(io.StringIO, console.file).getvalue()


@pytest.fixture
def one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """There can be no hosts, and nothing is really started."""
    running = SimpleNamespace(client=lambda: nullcontext("its client"))
    monkeypatch.setattr(places, "why_impossible", lambda: "its kernel refuses")
    monkeypatch.setattr(places, "stack", lambda *_, workers: nullcontext(running) if workers == 2 else None)


@pytest.mark.usefixtures("one_machine")
@pytest.mark.parametrize(("wanted", "why"), [(None, "its kernel refuses"), (1, "--hosts 1")])
def test_one_machine_is_never_taken_in_silence(console: Console, wanted: int | None, why: str) -> None:
    with places.place(Path(), console, wanted, "fast", 0) as where:
        assert where.client == "its client"
        assert said(console).count("NOT on two hosts") == 1
        assert where.told(PAIR) == {"hosts": 1, "why_one_host": why}
    assert said(console).count("NOT on two hosts") == said(console).count(why) == 2


@pytest.mark.usefixtures("one_machine")
def test_who_wants_two_hosts_gets_them_or_is_told_why_not(console: Console) -> None:
    with pytest.raises(hosts.NoHosts, match=r"its kernel refuses.*--hosts 1"):
        places.place(Path(), console, 2, "fast", 0).__enter__()


def test_a_machine_without_the_tools_is_told_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    why = hosts.why_impossible()
    assert why is not None and "unshare, nsenter, ip, mount" in why


@pytest.mark.parametrize(
    ("options", "wanted"),
    [([], None), (["--hosts", "1"], 1), (["--link", "slow"], 2), (["--cut", "30"], 2), (["--hosts", "2"], 2)],
)
def test_what_is_done_to_links_takes_two_hosts(
    monkeypatch: pytest.MonkeyPatch, options: list[str], wanted: int | None
) -> None:
    monkeypatch.setattr(sys, "argv", ["codistill", *options])
    assert example.parse().hosts == wanted


@pytest.mark.parametrize("options", [["--link", "slow"], ["--cut", "3"]])
def test_one_host_has_no_links(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["codistill", "--hosts", "1", *options])
    with pytest.raises(SystemExit, match="2"):
        example.parse()


@pytest.mark.parametrize(
    ("weak", "strong", "code"), [(41, 97, 0), (39, 100, 1), (90, 96, 1)], ids=["good", "learned little", "forgot"]
)
def test_the_verdict_is_of_both_sides(
    capsys: pytest.CaptureFixture[str], console: Console, weak: int, strong: int, code: int
) -> None:
    def right(count: int) -> list[bool]:
        return [True] * count + [False] * (100 - count)

    grid = {
        "A before": {"letters": right(100), "codes": right(0)},
        "A after": {"letters": right(100), "codes": right(80)},
        "B before": {"letters": right(0), "codes": right(100)},
        "B after": {"letters": right(weak), "codes": right(strong)},
    }
    assert example.verdict(grid, example.Plan(items=100), {"hosts": 2, "bytes": {"a-b": 7}}, 12.3, console) == code
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["good"] is (code == 0) and last["hosts"] == 2 and last["bytes"] == {"a-b": 7}
    assert last["points"]["B, weak"]["gain"] == weak / 100 and last["shares"]["A after"]["codes"]["n"] == 100
