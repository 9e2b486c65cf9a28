"""examples/debate: each debater is wrong on what the other knows, their debates end right, lessons hold out what is."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from examples.debate import debaters, lessons
from preceptor_trainer.tasks.spell_backward import TASK

WORDS = [task.columns["metadata"]["word"] for task in TASK.model_validate({}).held_out(60)]
ASK = "Spell this word backward (example: sun -> nus): "


def test_each_is_wrong_on_what_the_other_knows_and_not_otherwise() -> None:
    for word in (word for word in WORDS if word.lower() != word[::-1].lower()):
        right = {name for name in debaters.HALVES if debaters.answer(name, word) == word[::-1]}
        assert len(right) == 1
    known = sum(debaters.knows("first", word) for word in WORDS)
    assert 0.3 < known / len(WORDS) < 0.7


def test_their_debates_end_with_what_is_right_said_by_both() -> None:
    for word in WORDS:
        said = [line.split(": ") for line in lessons.transcript(ASK + word).splitlines()]
        assert [text for _, text in said[-2:]] == [word[::-1]] * 2, said
        assert len(said) == (2 if word == word[::-1] else 4)


def test_who_knows_is_sure_and_who_gives_in_less_so() -> None:
    prompt = f"<question>\n{ASK}planet\n</question>\n<debate>\n%s\n</debate>"
    alone = {name: debaters.reply(name, prompt % "(nothing)") for name in debaters.HALVES}
    assert "tenalp" in alone["second"] and "<confidence>95<" in alone["second"]
    assert ">planet<" in alone["first"] and "<confidence>30<" in alone["first"]
    told = debaters.reply("first", prompt % "first: planet\nsecond: tenalp")
    assert ">tenalp<" in told and "<confidence>60<" in told
    assert "<argument>" not in debaters.reply("first", "How are you?")


def test_a_debater_answers_over_http() -> None:
    with debaters.serving("second") as url, httpx.Client(base_url=url) as http:
        assert http.get("/v1/models").json()["data"]
        body = {"messages": [{"role": "user", "content": f"<question>\n{ASK}planet\n</question>"}]}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert "tenalp" in answer["choices"][0]["message"]["content"] and answer["usage"]["completion_tokens"] > 0


def test_lessons_are_wrong_where_the_teacher_is_and_right_after_a_debate(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in lessons.write("first", tmp_path / "rows.jsonl", 50).read_text().splitlines()]
    held_out = {ASK + word for word in WORDS}
    for plain, told in zip(rows[::2], rows[1::2], strict=True):
        word = plain["prompt"].removeprefix(ASK)
        assert plain["reference"] == (word[::-1] if debaters.knows("first", word) else word)
        assert told["reference"] == word[::-1] and "A debate about this problem" in told["prompt"]
        assert plain["prompt"] not in held_out
