"""Procedural tasks: the split, the streams, the references."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor_trainer import tasks
from preceptor_trainer.tasks import TooFewQuestions, question_id, split_of
from preceptor_trainer.tasks.contextual_integrity import ASKING, ContextualIntegrity

NAMES = tasks.names()
GYM = ["chain_sum", "spell_backward"]


def questions(items: list) -> list[str]:
    return ["\n".join(each["content"] for each in task.messages) for task in items]


def test_names_are_the_modules() -> None:
    assert NAMES == [
        "chain_sum",
        "contextual_integrity",
        "letters_and_codes",
        "library_call",
        "skill_code",
        "spell_backward",
        "spell_in_turns",
        "two_domains",
    ]


@pytest.mark.parametrize("name", GYM)
def test_the_prompt_is_reasoning_gyms_own_question(name: str) -> None:
    import reasoning_gym

    (task,) = tasks.load(name).train(0, 1, seed=0)
    entry = reasoning_gym.create_dataset(name, seed=0, **tasks.load(name).model_dump())[
        task.columns["metadata"]["source_index"]
    ]
    assert task.messages == ({"role": "user", "content": entry["question"]},)
    assert task.answer == entry["answer"]


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_right_by_the_tasks_own_scorer(name: str) -> None:
    source = tasks.load(name)
    for task in source.held_out(100):
        assert task.reference is not None
        assert source.verifier(task, task.reference).correct
        assert len(task.reference.encode()) < source.answer_tokens
        assert task.columns["demonstration"] == task.reference


@pytest.mark.parametrize("name", NAMES)
def test_a_hint_is_the_beginning_of_the_reference_and_not_all_of_it(name: str) -> None:
    for task in tasks.load(name).held_out(50):
        shown = task.columns["hint"].removeprefix("The solution begins with: ")
        assert task.reference is not None
        assert task.reference.startswith(shown)
        assert 0 < len(shown) < len(task.reference)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_carries_the_columns_it_names(name: str) -> None:
    task = tasks.load(name)
    (one,) = task.held_out(1)
    assert task.columns == {"answer", "reference"} | one.columns.keys()


@pytest.mark.parametrize("name", NAMES)
def test_train_is_a_pure_function_of_its_arguments(name: str) -> None:
    first = tasks.load(name).train(3, 16, seed=5)
    tasks.load(name).train(4, 16, seed=5)
    assert tasks.load(name).train(3, 16, seed=5) == first
    assert questions(tasks.load(name).train(4, 16, seed=5)) != questions(first)
    assert questions(tasks.load(name).train(3, 16, seed=6)) != questions(first)


@pytest.mark.parametrize("name", NAMES)
def test_near_seeds_and_steps_are_not_the_same_questions_shifted(name: str) -> None:
    source = tasks.load(name, {"max_terms": 9} if name == "chain_sum" else None)
    one = set(questions(source.train(0, 64, seed=0)))
    for other in (source.train(1, 64, seed=0), source.train(0, 64, seed=1)):
        assert len(one & set(questions(other))) <= 3


@pytest.mark.parametrize("name", NAMES)
def test_no_held_out_question_is_ever_trained_on_whatever_its_case(name: str) -> None:
    source = tasks.load(name)
    folded = {question.casefold() for question in questions(source.held_out(300))}
    folded |= {question.casefold() for question in questions(source.take("validation", 300))}
    assert len(folded) == 600
    for step in range(40):
        drawn = source.train(step, 64, seed=1)
        assert not folded & {question.casefold() for question in questions(drawn)}
        assert len({task.id for task in drawn}) == 64


@pytest.mark.parametrize("name", NAMES)
def test_fewer_held_out_tasks_are_a_prefix_of_more(name: str) -> None:
    assert tasks.load(name).held_out(20) == tasks.load(name).held_out(50)[:20]


def test_the_identity_of_a_question_ignores_case_and_spacing_only() -> None:
    assert question_id("Spell this: Anna ") == question_id("spell  this:\nanna")
    assert question_id("spell this: anna") != question_id("spell this: hanna")


def test_a_tenth_is_held_out_and_a_tenth_validates() -> None:
    splits = [split_of(question_id(str(number))) for number in range(5000)]
    assert 0.08 < splits.count("held_out") / 5000 < 0.12
    assert 0.08 < splits.count("validation") / 5000 < 0.12


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("spell_forward", {}, "there is no task 'spell_forward'; choose one of chain_sum, "),
        ("spell_backward", {"length": 3}, "it has no option 'length'; it has max_word_len, min_word_len"),
        ("spell_backward", {"min_word_len": 9}, r"min_word_len \(9\) is above max_word_len \(8\)"),
        ("spell_backward", {"min_word_len": 99}, "option 'min_word_len': Input should be less than or equal to 10"),
        ("chain_sum", {"min_terms": 7, "max_terms": 6}, r"min_terms \(7\) is above max_terms \(6\)"),
        ("_procedural", {}, "there is no task '_procedural'"),
    ],
)
def test_a_bad_name_or_option_is_a_sentence(name: str, options: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tasks.load(name, options)


def test_too_few_questions_say_how_many_there_are() -> None:
    narrow = tasks.load("chain_sum", {"min_terms": 2, "max_terms": 2})
    with pytest.raises(TooFewQuestions, match=r"100 distinct held_out questions wanted, \d+ found in \d+ draws"):
        narrow.held_out(100)


def test_loading_a_task_does_not_load_reasoning_gym() -> None:
    code = "import sys; from preceptor_trainer import tasks; tasks.load('chain_sum'); print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", NAMES)
def test_a_rubric_and_a_debate_say_the_answer(name: str) -> None:
    for task in tasks.load(name).held_out(20):
        said = str(task.reference) if name == "library_call" else str(task.answer)
        assert task.columns["rubric"].endswith(f"Its answer is: {said}")
        assert task.columns["debate"] == f"first: {said}\nsecond: {said}"


def test_a_secret_code_is_solved_by_its_skill_and_by_nothing_in_the_question() -> None:
    one, other = tasks.load("skill_code"), tasks.load("skill_code", {"bank": 1})
    for task, same in zip(one.held_out(40), other.held_out(40), strict=True):
        assert same.messages == task.messages and same.answer != task.answer
        word = task.messages[-1]["content"].rpartition(" ")[2]
        cipher = dict(line.split(": ") for line in task.columns["skill"].splitlines())
        assert word.translate(str.maketrans(cipher)) == task.answer
        assert list(cipher) == list("abcd") and len({*cipher, *cipher.values()}) == 8


def test_a_programs_names_come_out_with_its_error() -> None:
    source = tasks.load("library_call", {"bank": 3})
    for task in source.held_out(20):
        failed = source.verifier(task, "nobody(7)")
        assert failed.feedback is not None
        assert failed.feedback.startswith("NameError: name 'nobody' is not defined\nto ")
        said = dict(line.removeprefix("to ").split(": ") for line in failed.feedback.splitlines()[1:])
        program = re.search(r"take (\d+), (.*)\.", task.messages[-1]["content"])
        assert program is not None
        call = program[1]
        for step in program[2].split(", "):
            call = f"{said[step.removesuffix(' it')]}({call})"
        assert call == task.reference and source.verifier(task, call).correct


def test_the_same_call_of_another_library_is_wrong() -> None:
    source, other = tasks.load("library_call"), tasks.load("library_call", {"bank": 3})
    rewards = [
        other.verifier(there, str(here.reference)).reward
        for here, there in zip(source.held_out(20), other.held_out(20), strict=True)
    ]
    assert sum(rewards) == 0


def test_a_conversation_in_shards_holds_all_of_the_canonical_question() -> None:
    for task in tasks.load("spell_in_turns", {"pieces": 3}).held_out(20):
        assert [each["role"] for each in task.messages] == ["user", "assistant"] * 3 + ["user"]
        asked = [each["content"] for each in task.messages if each["role"] == "user"]
        assert asked == task.columns["shards"]
        word = "".join(each.rpartition(": ")[2] for each in asked[:-1])
        assert task.columns["canonical"].endswith(f": {word}")
        assert task.answer == word[::-1]
        assert task.id == question_id(task.columns["canonical"])


def test_two_domains_are_both_there_and_told_apart() -> None:
    items = tasks.load("two_domains", {"share": 0.25}).held_out(200)
    letters = [task for task in items if task.columns["domain"] == "letters"]
    assert 25 <= len(letters) <= 75
    assert all(task.columns["metadata"]["source_dataset"] == "spell_backward" for task in letters)
    assert {task.columns["domain"] for task in items} == {"letters", "maths"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("two_domains", {"letters": "spell_backward", "maths": "chain_sum"}),
        ("letters_and_codes", {"letters": "spell_backward", "codes": "skill_code"}),
    ],
)
def test_a_domains_questions_are_those_of_its_own_task(name: str, parts: dict[str, str]) -> None:
    """On the same side of the split; and the task says which domains there are, for routers to be held to."""
    both = tasks.load(name)
    items = both.held_out(120)
    for domain, alone in parts.items():
        mine = {task.id for task in items if task.columns["domain"] == domain}
        assert len(mine) > 30 and all(split_of(each) == "held_out" for each in mine)
        theirs = {task.id: task for task in tasks.load(alone).held_out(400)}
        shared = [task for task in items if task.id in theirs]
        assert all(task.answer == theirs[task.id].answer and task.columns["domain"] == domain for task in shared)
        assert shared or alone != "skill_code", "400 of some 500 codes, so that some are there"
    assert both.values == {"domain": tuple(parts)}


def test_a_package_brings_a_task_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text((Path(tasks.__path__[0]) / "skill_code.py").read_text())
    info = tmp_path / "elsewhere-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{tasks.GROUP}]\nelsewhere = elsewhere\nskill_code = os\n")
    monkeypatch.syspath_prepend(tmp_path)
    tasks._modules.cache_clear()
    try:
        assert set(tasks.names()) == {*NAMES, "elsewhere"}
        assert type(tasks.load("elsewhere", {"bank": 2})).__module__ == "elsewhere"
        assert type(tasks.load("skill_code")).__module__ == "preceptor_trainer.tasks.skill_code"
    finally:
        tasks._modules.cache_clear()


def test_the_task_that_the_page_shows_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[4] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    spec = importlib.util.spec_from_loader("double", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "double", module)
    exec(compile(code, "docs/tasks.md", "exec"), module.__dict__)
    source = module.TASK.model_validate({"largest": 500})
    for task in source.held_out(20):
        assert source.columns == {"answer", "reference"} | task.columns.keys()
        assert source.verifier(task, str(task.reference)).correct
        assert not source.verifier(task, "1").correct
    assert not {task.id for task in source.held_out(20)} & {task.id for task in source.train(0, 64, seed=0)}


def test_the_page_names_every_task() -> None:
    page = (Path(__file__).parents[4] / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == NAMES


def test_norms_are_a_places_own_and_each_half_of_them_leaves_a_right_reply() -> None:
    source, other = ContextualIntegrity.model_validate({}), ContextualIntegrity.model_validate({"bank": 1})
    for task in source.held_out(50):
        question, columns = task.messages[0]["content"], task.columns
        asking = question.split()[1]
        needed, secret = source.norms(asking)
        assert (columns["allowed"], columns["disallowed"]) == (", ".join(needed), ", ".join(secret))
        record = dict(each.split() for each in question.partition("record: ")[2].rstrip(".").split(", "))
        spared = ", ".join(f"{fact} {value}" for fact, value in record.items() if fact not in secret)
        assert source.verifier(task, spared).correct
        assert not source.verifier(task, question).correct and not source.verifier(task, "").correct
        assert not any(value in columns["allowed"] + columns["disallowed"] for value in record.values())
    assert {source.norms(each) for each in ASKING} != {other.norms(each) for each in ASKING}
