"""Verifiers, on attempts that are right, wrong, marked, unmarked and odd."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from preceptor_trainer import verifiers
from preceptor_trainer.recipe import Verifier
from preceptor_trainer.tasks import load
from preceptor_trainer.verifiers import Disclosure, Exact, Math, Procedural, final_answer
from preceptor_trainer.views import Message, Task


def task(answer: str | None, **columns: Any) -> Task:
    return Task(id="one", messages=(Message(role="user", content="?"),), answer=answer, columns=columns)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        ("  42\n", "42"),
        ("4 + 3 = 7\n#### 7", "7"),
        ("#### 6\nno, rather\n#### 7\nbecause", "7"),
        ("I think <answer> nus </answer> is it", "nus"),
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2} and an open \boxed{3", "2"),
        (r"\boxed{3}, that is <answer>4</answer>", "4"),
        (r"<answer>4</answer> or \boxed{3}", "3"),
        ("", ""),
        ("####", ""),
    ],
)
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_exact_compares_the_final_answer() -> None:
    assert Exact()(task("New York"), "I say\n#### New  York").correct
    wrong = Exact()(task("New York"), "new york")
    assert (wrong.correct, wrong.reward, wrong.feedback) == (False, 0.0, "The answer is wrong.")
    assert Exact(ignore_case=True)(task("New York"), "new york").correct


@pytest.mark.parametrize("text", [r"\boxed{\frac{1}{2}}", "0.5", "#### 1/2", "It is $\\frac{2}{4}$"])
def test_math_takes_equal_expressions(text: str) -> None:
    assert Math()(task("1/2"), text) == Math()(task(r"\frac{1}{2}"), text)
    assert Math()(task("1/2"), text).correct


@pytest.mark.parametrize("text", ["2", "", "half", "#### ", r"\boxed{"])
def test_math_refuses_the_rest(text: str) -> None:
    assert not Math()(task("1/2"), text).correct


def test_math_works_off_the_main_thread() -> None:
    found = list[bool]()
    thread = threading.Thread(target=lambda: found.append(Math()(task("1/2"), "0.5").correct))
    thread.start()
    thread.join()
    assert found == [True]


def test_math_says_when_the_gold_answer_is_no_mathematics() -> None:
    with pytest.raises(ValueError, match="cannot be read as mathematics"):
        Math()(task(""), "3")


@pytest.mark.parametrize("verifier", [Exact(), Math()])
def test_a_task_without_an_answer_is_an_error(verifier: Verifier) -> None:
    with pytest.raises(ValueError, match="task one has no answer"):
        verifier(task(None), "3")


def test_partial_credit_is_a_reward_but_never_correct() -> None:
    (one,) = load("spell_backward").held_out(1)
    assert one.answer is not None
    assert Procedural()(one, one.answer.upper()).correct
    partial = Procedural()(one, one.answer[:-1] + "#")
    assert 0.5 < partial.reward < 1.0
    assert not partial.correct
    assert Procedural()(one, "").reward == 0.0


def test_the_procedural_scorer_reads_metadata_from_an_export() -> None:
    metadata = '{"source_dataset": "chain_sum"}'
    assert Procedural()(task("-7", metadata=metadata), "#### -7.0").correct


@pytest.mark.parametrize("columns", [{}, {"metadata": "no json"}, {"metadata": {"source": "x"}}, {"metadata": 3}])
def test_the_procedural_scorer_needs_to_know_its_data_set(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no metadata\.source_dataset"):
        Procedural()(task("1", **columns), "1")


@pytest.mark.parametrize("name", ["number_sorting", "string_insertion", "bitwise_arithmetic", "simple_integration"])
def test_scorers_that_would_run_what_they_read_are_refused(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    attack = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    metadata = {"source_dataset": name, "problem": attack, "integrand": attack, "variable": "x"}
    with pytest.raises(ValueError, match=f"scorer of '{name}' has not been reviewed"):
        Procedural()(task(attack, metadata=metadata), attack)
    assert not mark.exists()


def test_scorers_that_only_compare_text_are_used() -> None:
    assert Procedural()(task("acb", metadata={"source_dataset": "caesar_cipher"}), "acb").correct


def test_an_unknown_data_set_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="reasoning-gym has no data set 'poems'"):
        Procedural()(task("1", metadata={"source_dataset": "poems"}), "1")


def test_a_disclosure_is_judged_by_what_it_tells_and_what_it_does_not() -> None:
    one = task(None, needed={"age": "34", "ills": "12"}, secret={"pay": "71"})
    for right in ("age 34, ills 12", "34 and 12", "age 34, ills 12, debt 55"):
        assert Disclosure()(one, right).correct
    for text, says in (
        ("age 34", "It does not tell: ills."),
        ("age 34, pay 71, ills 12", "It gives away: pay."),
        ("71", "It does not tell: age, ills.\nIt gives away: pay."),
        ("age 134, ills 12", "It does not tell: age."),
    ):
        verdict = Disclosure()(one, text)
        assert (verdict.correct, verdict.reward, verdict.feedback) == (False, 0.0, says)


@pytest.mark.parametrize("columns", [{}, {"needed": {"age": "34"}}, {"needed": {"age": 34}, "secret": {}}])
def test_a_disclosure_needs_to_know_what_is_needed_and_what_is_secret(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of task one is not an object of fact -> text"):
        Disclosure()(task(None, **columns), "34")


def test_verifiers_by_name() -> None:
    shipped = [name for name in verifiers.names() if not name.startswith("test_")]  # other tests define their own
    assert shipped == ["disclosure", "exact", "math", "procedural", "program"]
    assert verifiers.load("exact") == Exact()
    with pytest.raises(
        ValueError, match="there is no verifier 'judge'; choose one of disclosure, exact, math, procedural"
    ):
        verifiers.load("judge")


def test_a_verifier_survives_the_wire() -> None:
    part = Exact(ignore_case=True)
    assert Verifier.model_validate(part.model_dump()) == part
