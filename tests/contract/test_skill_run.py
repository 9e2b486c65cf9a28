"""Runs that read a skill bank and let it grow, from their submit to their end: a real control plane, workers in this
process, and a text teacher behind HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunState
from preceptor.wire.skills import SkillCreate
from preceptor.wire.teachers import TeacherCreate, TeacherKind
from preceptor_services.worker.advance import advance
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.cache import ArtifactCache
from preceptor_trainer import loop
from tests.contract.conftest import House
from tests.models import tiny_model_folder

REVERSE = SkillCreate(skill="Say the letters from the last to the first.", mistake="Said them in order.")
KNOWN = "Say the letters from the last to the first!"
TRAINING = {"steps": 4, "batch": 3, "evaluate_items": 4, "evaluate_every": 4, "checkpoint_every": 2}
TRAINING |= {"lora": {"rank": 4, "alpha": 8}}
TOPICS = ("vowels", "consonants", "doubled letters", "capitals", "hyphens", "long words", "short words", "names")


class Extractor(BaseHTTPRequestHandler):
    """A chat endpoint that draws two skills from whatever it is shown: one that every run finds, one that is new."""

    numbers = count()

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "extractor"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        topic = TOPICS[next(self.numbers) % len(TOPICS)]
        said = [(KNOWN, "Said them in order."), (f"Look out for {topic} before you begin.", f"Overlooked {topic}.")]
        lines = [json.dumps({"skill": skill, "mistake": mistake, "attempt": 1}) for skill, mistake in said]
        message = {"role": "assistant", "content": "\n".join(lines)}
        self._answer({"choices": [{"message": message, "finish_reason": "stop"}]})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def extractor() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Extractor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def house(database: str, make_house: Callable[..., House], extractor: str) -> House:
    house = make_house(database, real_teachers=True)
    house.admin.teachers.add(TeacherCreate(name="extractor", url=extractor, kind=TeacherKind.OPENAI))
    house.admin.skills.create("words", task="spell_backward")
    house.admin.skills.publish("words", 0, [REVERSE])
    return house


def start(house: House, folder: Path, **changes: Any) -> Run:
    """A run that learns from its own base under the bank's skills."""
    growing = {"skills": {"kind": "skill_bank", "every": 2, "below": 1.0}}
    wish = {
        "student": house.admin.artifacts.push(folder, "model", "student"),
        "recipe": "sgsd",
        "teachers": {"self": "base", "extractor": "extractor"},
        "overrides": {"rollout": {"max_tokens": 8}, "state": growing},
        "data": TaskSource(task="spell_backward"),
        "training": TRAINING,
        "skills": "words@1",
    }
    return house.run(**{**wish, **changes})


def work(house: House, run: Run, name: str) -> Run:
    folder = house.tmp / name
    bench = Bench(client=house.admin, name=name, folder=folder, cache=ArtifactCache(house.admin, folder, 10**9))
    advance(run.id, bench)
    return house.admin.runs.get(run.id)


@pytest.fixture
def one_opens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are processes; here they are threads, and what transformers does to open a model all of them see."""
    lock, opening = threading.Lock(), loop.open_student

    def opened(*arguments: Any) -> Any:
        with lock:
            return opening(*arguments)

    monkeypatch.setattr(loop, "open_student", opened)


@pytest.mark.usefixtures("one_opens_at_a_time")
def test_two_runs_let_one_bank_grow_at_once_and_no_skill_is_lost(house: House, tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "student")
    runs = [start(house, folder, training={**TRAINING, "seed": seed}) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda run: work(house, run, run.id), runs))
    assert [(run.state, run.error) for run in ended] == [(RunState.SUCCEEDED, None)] * 2

    skills = house.admin.skills
    made = [each for each in skills.versions("words") if each.run is not None]
    assert sorted((str(each.run), each.step) for each in made) == sorted(
        (run.id, step) for run in runs for step in (2, 4)
    )
    held = list(skills.skills("words"))
    assert held[0].skill == REVERSE.skill and len(held) == 1 + 4, "one new a publication"
    assert all(each.gone is None for each in held)
    learned = {(source.run, source.step) for source in held[0].sources}
    assert learned == {(run.id, step) for run in runs for step in (2, 4)}, "all four found the first again"
    assert all(source.task and source.rollout for each in held for source in each.sources)
    assert held[0].usefulness.used == 2 * 4 * 3, "every rollout of both runs was scored with it in sight"
    tried = [each.usefulness.outcome.n for each in held if each.usefulness.outcome is not None]
    assert sum(tried) == 2 * 2 * 2 * 3, "two runs looked twice at three tasks, with and without"
    for run in ended:
        told = [str(event.data.get("message")) for event in house.admin.runs.events(run.id, follow=False)]
        assert sum("The skill bank is at version" in each for each in told) == 2


def test_a_run_whose_bank_does_not_grow_reads_what_it_has_pinned(sqlite_house: House, tmp_path: Path) -> None:
    skills = sqlite_house.admin.skills
    skills.create("words")
    skills.publish("words", 0, [REVERSE])
    changes = {"overrides": {"rollout": {"max_tokens": 8}}, "teachers": {"self": "base"}}
    run = start(sqlite_house, tiny_model_folder(tmp_path / "student"), **changes)
    skills.publish("words", 1, [SkillCreate(skill="Count the letters.")])
    ended = work(sqlite_house, run, "w")
    assert (ended.state, ended.error, ended.skills) == (RunState.SUCCEEDED, None, "words@1")
    assert [each.usefulness.used for each in skills.skills("words")] == [12, 0]
