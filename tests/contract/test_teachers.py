"""Teachers: registered after a look at them, and never where they may not be."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.common import Scope
from preceptor.wire.runs import RunState
from preceptor.wire.teachers import Card, Probe, TeacherCreate, TeacherState
from preceptor_services.api.teachers.urls import check_url
from preceptor_services.settings import Settings
from tests.contract.conftest import House
from tests.contract.doubles import card_for, write_model

REFUSED = Settings().refused_networks


def serve(house: House, url: str = "http://127.0.0.1:1/t") -> str:
    """Have something answer at a URL."""
    house.faculty.cards[url] = card_for(write_model(house.tmp / "served"))
    return url


def test_a_teacher_is_looked_at_registered_and_listed(house: House):
    added = house.admin.teachers.add(TeacherCreate(name="b", url=serve(house)))
    assert added.state is TeacherState.READY
    assert added.card is not None
    assert added.probe is not None
    assert added.probe.ok
    house.admin.teachers.add(TeacherCreate(name="a", url=serve(house)))
    assert [each.name for each in house.admin.teachers.list()] == ["a", "b"]
    assert house.admin.teachers.get("b") == added


def test_a_teacher_that_does_not_answer_is_not_registered(house: House):
    with pytest.raises(Invalid, match="url: no teacher answered") as caught:
        house.admin.teachers.add(TeacherCreate(name="silent", url="http://127.0.0.1:1/nobody"))
    assert caught.value.field == "url"
    assert house.admin.teachers.list() == ()


def test_a_teacher_that_is_not_what_it_says_is_refused_and_one_that_ceases_to_be_it_is_degraded(house: House):
    url = serve(house)
    house.faculty.failing.add(url)
    with pytest.raises(Invalid, match="this server is refused: it failed the check 'parity'"):
        house.admin.teachers.add(TeacherCreate(name="odd", url=url))
    assert house.admin.teachers.list() == (), "nothing is stored"
    house.faculty.failing.clear()
    house.admin.teachers.add(TeacherCreate(name="odd", url=url))
    house.faculty.failing.add(url)
    degraded = house.admin.teachers.probe("odd")
    assert degraded.state is TeacherState.DEGRADED
    assert degraded.endpoints[0].trouble == "parity: Log-probabilities agree within 1e-4."
    house.faculty.failing.clear()
    assert house.admin.teachers.probe("odd").state is TeacherState.READY


def test_one_name_is_one_teacher(house: House):
    house.admin.teachers.add(TeacherCreate(name="t", url=serve(house)))
    with pytest.raises(Conflict, match="There is a teacher t already"):
        house.admin.teachers.add(TeacherCreate(name="t", url=serve(house)))


def test_of_two_that_take_one_name_at_once_one_gets_it(house: House):
    """Both find the name free, look, and come back to register."""
    url, gate, names = serve(house), threading.Barrier(2), list[str]()

    def both_look(*asked: object) -> tuple[Card, Probe]:
        gate.wait(30)
        return house.faculty(*asked)  # pyright: ignore[reportArgumentType]

    house.app.state.plane = replace(house.plane, probe=both_look)

    def add() -> None:
        try:
            names.append(house.admin.teachers.add(TeacherCreate(name="t", url=url)).name)
        except Conflict as error:
            names.append(str(error))

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(each[:10] for each in names) == ["There is a", "t"]
    assert len(house.admin.teachers.list()) == 1


def test_a_teacher_that_went_away_is_down_and_comes_back(house: House):
    url = serve(house)
    first = house.admin.teachers.add(TeacherCreate(name="t", url=url))
    card = house.faculty.cards.pop(url)
    down = house.admin.teachers.probe("t")
    assert down.state is TeacherState.DOWN
    assert down.card == first.card, "what is known of it is kept"
    assert down.probe is not None
    assert "No answer" in down.probe.checks[0].detail
    house.faculty.cards[url] = card
    assert house.admin.teachers.probe("t").state is TeacherState.READY


def test_a_drained_teacher_stays_drained_until_it_is_undrained(house: House):
    house.admin.teachers.add(TeacherCreate(name="t", url=serve(house)))
    assert house.admin.teachers.drain("t").state is TeacherState.DRAINING
    assert house.admin.teachers.probe("t").state is TeacherState.DRAINING
    assert house.admin.teachers.undrain("t").state is TeacherState.READY


def test_a_teacher_is_kept_while_a_run_needs_it(house: House):
    run = house.run()
    with pytest.raises(Conflict, match=f"Run {run.id} still needs teacher spelling"):
        house.admin.teachers.remove("spelling")
    house.admin.runs.cancel(run.id)
    house.admin.teachers.remove("spelling")
    with pytest.raises(NotFound):
        house.admin.teachers.get("spelling")
    ended = house.admin.runs.get(run.id)
    assert (ended.state, ended.teachers) == (RunState.CANCELLED, {"self": "spelling"}), "a run outlives its teachers"


def test_the_key_comes_from_the_environment_and_is_never_shown(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MATH_KEY", "very-secret")
    url = serve(house)
    wish = TeacherCreate(name="t", url=url, key_env="MATH_KEY")
    house.admin.teachers.add(wish)
    assert house.faculty.keys[url] == "very-secret"
    assert house.admin.teachers.get("t").key_env == "MATH_KEY"
    assert "very-secret" not in house.http().get("/v1/teachers").text


def test_the_key_may_lie_in_a_file(house: House, monkeypatch: pytest.MonkeyPatch):
    secret = house.tmp / "key"
    secret.write_text("from-a-file\n")
    monkeypatch.setenv("MATH_KEY_FILE", str(secret))
    url = serve(house)
    house.admin.teachers.add(TeacherCreate(name="t", url=url, key_env="MATH_KEY"))
    assert house.faculty.keys[url] == "from-a-file"


@pytest.mark.parametrize(
    ("variable", "said"),
    [("NO_SUCH_KEY", "no environment variable NO_SUCH_KEY"), ("PRECEPTOR_ADMIN_KEY", "own secrets")],
)
def test_a_key_that_is_not_there_or_not_a_teachers(house: House, variable: str, said: str):
    with pytest.raises(Invalid, match=said) as caught:
        house.admin.teachers.add(TeacherCreate(name="t", url=serve(house), key_env=variable))
    assert caught.value.field == "key_env"


def test_registering_is_an_admins_privilege(house: House):
    answer = house.http(house.admin.keys.create("r", Scope.RUN).secret).post(
        "/v1/teachers", json={"name": "t", "url": serve(house)}
    )
    assert answer.status_code == 403
    assert "needs a key of scope admin; yours has run" in answer.json()["detail"]
    assert house.admin.teachers.list() == ()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "127.0.0.1:8421",
        "http://user:secret@127.0.0.1:1",
        "http://user@127.0.0.1:1",
        "http://127.0.0.1:1/?q=1",
        "http://127.0.0.1:1/#f",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://169.254.169.254/latest/meta-data",
        "http://169.254.0.1",
        "http://[fe80::1]:80",
        "http://[::ffff:169.254.169.254]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://[::1",
        "http://exa mple/",
        "http://127.0.0.1:1/\r\nX: y",
        "x" * 3000,
        "",
    ],
)
def test_urls_that_no_teacher_may_have(sqlite_house: House, url: str):
    answer = sqlite_house.http().post("/v1/teachers", json={"name": "t", "url": url})
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == "url"
    assert sqlite_house.faculty.keys == {}, "nothing was called"


def test_a_host_is_judged_by_all_its_addresses():
    with pytest.raises(Invalid, match=r"leads to 169\.254\.169\.254"):
        check_url("http://innocent.test", REFUSED, lambda host, port: ["10.0.0.1", "169.254.169.254"])
    check_url("https://innocent.test/base", REFUSED, lambda host, port: ["10.0.0.1", "2001:db8::1"])


def test_a_host_that_does_not_exist():
    def nowhere(host: str, port: int) -> list[str]:
        raise OSError("unknown name")

    with pytest.raises(Invalid, match="cannot be resolved"):
        check_url("http://nowhere.test", REFUSED, nowhere)


def test_an_operator_may_refuse_more_networks(tmp_path: Path):
    settings = Settings(home_dir=tmp_path, refused_networks=("10.0.0.0/8",))
    with pytest.raises(Invalid, match=r"10\.0\.0\.0/8"):
        check_url("http://10.1.2.3", settings.refused_networks)
