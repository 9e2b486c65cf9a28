"""What `preceptor up` tells its children, and what it keeps from them."""

from __future__ import annotations

import fcntl
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from preceptor_services.supervisor import StartFailed, Supervisor
from preceptor_services.up import UpSettings, _Plan, run_up, shipped_model


def plan(home: Path, *, admin: bool = True, last: Mapping[str, int] | None = None, port: int = 0) -> _Plan:
    settings = UpSettings(home=home, port=port, teacher_port=0, teacher_model=home)
    return _Plan(settings, admin=admin, last=last or {})


def test_every_secret_reaches_only_those_who_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEPTOR_KEY", "the-users-own")
    monkeypatch.setenv("PRECEPTOR_BROKER_URL_FILE", "/elsewhere")
    monkeypatch.setenv("PRECEPTOR_LEASE_SECONDS", "5")
    monkeypatch.setenv("MY_TEACHER_KEY", "of-another-teacher")
    made = plan(tmp_path)
    all_of_them = (made.broker(), made.api(), made.teacher(), made.worker(1), made.debates())
    processes = {each.name: each.env for each in all_of_them}
    assert made.admin_key is not None
    assert {name for name, env in processes.items() if made.admin_key in env.values()} == {"api"}
    worker_key = processes["worker"]["PRECEPTOR_KEY"]
    assert {name for name, env in processes.items() if worker_key in env.values()} == {"api", "worker", "debates"}
    teacher_key = processes["teacher"]["PRECEPTOR_TEACHER_KEY"]
    ask = {"teacher", "worker", "debates"}
    assert {name for name, env in processes.items() if teacher_key in env.values()} == {"api", *ask}
    assert len({made.admin_key, worker_key, teacher_key}) == 3
    for name, env in processes.items():
        assert "the-users-own" not in env.values() and "PRECEPTOR_BROKER_URL_FILE" not in env, name
    # A worker knows what one on another machine would know: no database, no blobs.
    assert not {"PRECEPTOR_DATABASE_URL", "PRECEPTOR_HOME_DIR"} & processes["worker"].keys()
    assert processes["api"]["PRECEPTOR_LEASE_SECONDS"] == "5", "what `up` does not decide passes through"
    assert processes["worker"]["MY_TEACHER_KEY"] == "of-another-teacher"
    for each in all_of_them:
        assert not any(secret in " ".join(each.command) for secret in (made.admin_key, worker_key, teacher_key))


def test_keys_are_new_at_every_start_and_the_admin_key_only_when_wanted(tmp_path: Path) -> None:
    first, second = plan(tmp_path), plan(tmp_path, admin=False)
    assert second.admin_key is None
    assert "PRECEPTOR_ADMIN_KEY" not in second.api().env
    assert first.worker(1).env["PRECEPTOR_KEY"] != second.worker(1).env["PRECEPTOR_KEY"]


def test_the_broker_is_real_private_and_wants_its_password(tmp_path: Path) -> None:
    broker = plan(tmp_path).broker()
    supervisor = Supervisor(tmp_path / "logs")
    try:
        supervisor.start([broker])
        config = tmp_path / "broker" / "valkey.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        port = int(config.read_text().partition("port ")[2].split()[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")
    finally:
        supervisor.stop()


def test_ports_stay_the_same_where_they_are_free(tmp_path: Path) -> None:
    first = plan(tmp_path)
    kept = {"port": first.port, "teacher_port": first.teacher_port}
    second = plan(tmp_path, last=kept)
    assert (second.port, second.teacher_port) == (first.port, first.teacher_port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert plan(tmp_path, last={"port": port}).port != port
        with pytest.raises(StartFailed, match=rf"Port {port} on 127\.0\.0\.1 is taken.*--port"):
            plan(tmp_path, port=port)


def test_a_home_is_for_one_at_a_time(tmp_path: Path) -> None:
    def never(_: object) -> None:
        raise AssertionError("it must not start")

    settings = UpSettings(home=tmp_path, port=0, teacher_port=0, teacher_model=tmp_path)
    with (tmp_path / "up.json").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StartFailed, match="Another `preceptor up` already runs"):
            run_up(settings, on_ready=never, tell=never)


def test_the_shipped_model_is_found() -> None:
    assert (shipped_model() / "config.json").is_file()
