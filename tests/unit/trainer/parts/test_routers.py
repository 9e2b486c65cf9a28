"""Routers: which role a rollout is for, what is refused when they are made, and what they read of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from preceptor_trainer import recipes
from preceptor_trainer.parts.routers import ByClassifier, ByColumn, ByRules, Rule
from preceptor_trainer.router import Router, Unrouted
from preceptor_trainer.views import ContextView, Message, Rollout, Task

OWN = Rollout(index=0, text="")


def view(asked: str = "What is 2 + 2?", replies: Mapping[str, str] | None = None, **columns: Any) -> ContextView:
    task = Task(id="t", messages=(Message(role="user", content=asked),), columns=columns)
    return ContextView(task=task, rollout=OWN, group=(OWN,), step=1, rng=Random(0), replies=replies or {})


def test_a_column_says_whom_to_ask() -> None:
    router = ByColumn(domains=("maths", "3"), silent=("chat",))
    assert [router.choose(view(domain=each)) for each in ("maths", 3, "chat")] == ["maths", "3", None]
    assert [router.choose(view(domain=each)) for each in (None, "")] == [None, None]
    assert router.choose(view()) is None and router.experts == ("maths", "3") and router.columns == ("domain",)
    with pytest.raises(Unrouted, match=r"the column 'domain' says 'law', and .* no teacher for it; it has maths, 3"):
        router.choose(view(domain="law"))
    rest = ByColumn(column="level", domains=("hard",), otherwise="small")
    assert [rest.choose(view(level=each)) for each in ("hard", "easy", None)] == ["hard", "small", None]
    assert rest.experts == ("hard", "small")


def test_what_would_have_no_teacher_is_known_beforehand() -> None:
    router = ByColumn(domains=("maths",), silent=("chat",))
    assert [router.unheard("domain", each) for each in ("maths", "chat", "law")] == [False, False, True]
    assert not router.unheard("level", "law")
    assert not ByColumn(domains=("maths",), otherwise="rest").unheard("domain", "law")


def test_the_first_rule_that_holds_decides() -> None:
    router = ByRules(
        rules=(
            Rule(teacher="letters", like="*spell*backward*"),
            Rule(teacher="law", of="source", equals="Bar Exam"),
            Rule(teacher="maths", like="*[0-9]*"),
        )
    )
    asked = ("SPELL this word backward: 4", "What is 2 + 2?", "Who?")
    assert [router.choose(view(each)) for each in asked] == ["letters", "maths", None]
    assert router.choose(view("What is 2 + 2?", source=" bar exam ")) == "law"
    assert router.experts == ("letters", "law", "maths") and router.columns == ("source",)
    assert ByRules(rules=router.rules, otherwise="rest").choose(view("Who?")) == "rest"


def test_no_pattern_takes_long() -> None:
    """What a regular expression may spend years on is over at once."""
    rule = Rule(teacher="x", like="*a" * 60 + "*b")
    assert not rule.holds("a" * 100_000)


def test_a_classifier_is_asked_once_and_read_strictly() -> None:
    router = ByClassifier(domains=("maths", "law"), classifier="judge")
    (ask,) = router.asks(view("What is {domains}?"))
    assert ask.teacher == "judge" and ask.temperature == 0 and router.writers == ("judge",)
    assert "What is {domains}?" in ask.messages[0]["content"] and "maths, law" in ask.messages[0]["content"]
    kept = router.read(view(), "domain", "I think <domain> Law </domain>, since it says so.")
    assert kept == "law" and router.asks(view(replies={"domain": kept})) == ()
    assert router.choose(view(replies={"domain": kept})) == "law" and router.experts == ("maths", "law")
    for wrong in (
        "law",
        "<domain>cooking</domain>",
        "<domain>maths</domain> or <domain>law</domain>",
        "<domain></domain>",
    ):
        with pytest.raises(ValueError, match="domain"):
            router.read(view(), "domain", wrong)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ByColumn(domains=()), "at least 1 item"),
        (lambda: ByColumn(domains=("a", "a")), "'a' is named twice"),
        (lambda: ByColumn(domains=("a",), otherwise="b", silent=("c",)), "leave one of the two out"),
        (lambda: Rule(teacher="a"), "either what it `equals` or what it is `like`"),
        (lambda: Rule(teacher="a", equals="x", like="y"), "either what it `equals` or what it is `like`"),
        (lambda: ByClassifier(domains=("a",)), "at least 2 items"),
        (lambda: ByClassifier(domains=("Law", "law")), "case does not matter"),
        (lambda: ByClassifier(domains=("a", "b"), ask_template="Which?"), "{question} exactly once"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("{", r"\{")):
        make()


def test_any_recipe_is_routed_in_one_line() -> None:
    opd = recipes.load("opd").override({"contexts.teacher.router": {"kind": "column", "domains": ["maths", "law"]}})
    assert opd.roles == {"maths", "law"} and set(opd.routers) == {"teacher"}
    again = type(opd).model_validate(opd.model_dump(mode="json"))
    assert again == opd and isinstance(again.routers["teacher"], Router)
    other = opd.override({"contexts.teacher.router.domains": ["code"]})
    assert other.roles == {"code"}
    asked = recipes.load("gkd").override(
        {"contexts.teacher.router": {"kind": "classifier", "domains": ["maths", "law"], "classifier": "judge"}}
    )
    assert asked.scorers == {"maths", "law"} and asked.writers == {"judge"}
    with pytest.raises(ValidationError, match="'debate' has several teachers already"):
        recipes.load("mad_opd").override({"contexts.debate.router": {"kind": "column", "domains": ["maths"]}})
