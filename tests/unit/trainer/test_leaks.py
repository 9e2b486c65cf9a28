"""Privileged text stays where it was promised: whoever shows it elsewhere is caught, and who does not is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_trainer import recipes
from preceptor_trainer.leaks import Leak, LeakCheck
from preceptor_trainer.loop import train
from preceptor_trainer.model import load_model
from preceptor_trainer.parts.contexts import Shown
from preceptor_trainer.recipe import GROUP, Recipe, RolloutPolicy, SingleContext
from preceptor_trainer.views import ContextView, Message, Plan, PlanView, Rollout, Task, Turn, Verdict
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run

WORDS = ["amber", "bridge", "candle", "drift", "ember", "falcon", "garden", "harbour", "island", "jungle", "kettle"]
REFERENCE = "First take the amber bridge, then follow the drift of the river to the island and say: falcon"


class Telling(SingleContext, kind="test_telling"):
    """Shows a field, and promises to show nothing."""

    field: str = "answer"
    around: str = "By the way: {}"

    def messages(self, view: ContextView) -> Sequence[Message]:
        value = (
            getattr(view.task, self.field) if self.field in ("answer", "reference") else view.task.columns[self.field]
        )
        last = view.task.messages[-1]
        return (Message(role="user", content=last["content"] + "\n\n" + self.around.format(value)),)


class Forgetful(RolloutPolicy, kind="test_forgetful"):
    """Writes a field into the prompt that the loss is under."""

    field: str = "reference"

    def plan(self, view: PlanView) -> Plan:
        secret = Message(role="system", content=f"Use this: {getattr(view.task, self.field)}")
        return Plan(turns=(Turn(messages=(secret, *view.task.messages)),))


def task(**fields: Any) -> Task:
    asked = (Message(role="user", content="Which bird lives there?"),)
    return Task(**{"id": "t-7", "messages": asked, "answer": "falcon", "reference": REFERENCE, **fields})


def view(of: Task, own: str = "a crow", others: Sequence[str] = ()) -> ContextView:
    wrong = Verdict(reward=0.0, correct=False)
    group = tuple(Rollout(index=i, text=text, verdict=wrong) for i, text in enumerate((own, *others)))
    return ContextView(task=of, rollout=group[0], group=group, step=1, rng=Random(0))


def showing(context: SingleContext | dict[str, Any]) -> Recipe:
    shown = context if isinstance(context, dict) else context.model_dump()
    return recipes.load("opsd").override({"contexts": {"reference": shown}, "rollout": {"samples": 2}})


def caught(context: SingleContext | dict[str, Any], of: Task, **more: Any) -> bool:
    recipe, seen = showing(context), view(of, **more)
    try:
        LeakCheck(recipe).context("reference", seen, recipe.contexts["reference"].prompts(seen))
    except Leak as leak:
        assert of.id in str(leak) and leak.field == "contexts.reference"
        return True
    return False


phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
numbers = st.integers(1000, 10**9).map(str)


@given(answer=phrases | numbers, around=st.sampled_from(["Hm: {}", "({})", "1. {} 2. no", "so {}, then", "**{}**"]))
def test_an_answer_that_is_told_is_caught(answer: str, around: str) -> None:
    of = task(answer=answer, reference=None)
    assert caught(Telling(around=around), of)
    assert caught(Telling(around=around.upper().replace("{}", "{}")), task(answer=answer.title(), reference=None))


@given(answer=phrases | numbers, text=st.text(alphabet="qxz 0123456789\n.,:", max_size=60))
def test_what_does_not_hold_it_is_left_alone(answer: str, text: str) -> None:
    if answer in text:
        return
    assert not caught(Telling(field="skill", around="{}"), task(answer=answer, reference=None, columns={"skill": text}))


@pytest.mark.parametrize("answer", ["7", "12", "B", "yes", "-3", "True", "none"])
def test_a_short_answer_counts_where_it_is_put_as_one(answer: str) -> None:
    of = task(answer=answer, reference=None)
    for around in ("The answer is {}.", "Answer: {}", r"\boxed{{{}}}", "#### {}", "<answer>{}</answer>", "expected {}"):
        assert caught(Telling(around=around), of), around
    for around in ("1. first 7. seventh 12. B {}th", "it is {} that there are yes-sayers; none came"):
        assert not caught(Telling(around=around), of), around


@pytest.mark.parametrize(
    ("answer", "text"),
    [("1024", "1024.5"), ("1024", "0.1024"), ("tenalp", "tenalps"), ("falcon", "falconer, falconry")],
)
def test_a_part_of_a_word_is_another_word(answer: str, text: str) -> None:
    assert not caught(Telling(field="skill", around="{}"), task(answer=answer, reference=None, columns={"skill": text}))


def test_what_the_question_says_is_no_secret() -> None:
    asked = (Message(role="user", content="Is it a crow or a falcon?"),)
    assert not caught({"kind": "plain"}, task(messages=asked))
    assert not caught({"kind": "instruction", "template": "{question}\n\nBe brief."}, task(messages=asked))
    assert caught(Telling(around="{} it is"), task(messages=asked))
    spread = task(
        columns={"canonical": "Name the bird of the island, the falcon.", "shards": ["the bird", "the falcon"]}
    )
    assert not caught({"kind": "canonical"}, spread)


def test_what_attempts_found_is_no_secret_to_who_shows_them() -> None:
    assert not caught({"kind": "peer_failure"}, task(), others=("I say falcon, but there is no mark",))
    told = Telling(field="attempt", around="{}")
    assert not caught(told, task(columns={"attempt": "I say falcon"}), own="I say falcon")
    assert caught(told, task(columns={"attempt": "I say falcon"}), others=("I say falcon",)), "it shows no group"


def test_a_siblings_success_is_gold_and_its_failure_is_not() -> None:
    class Sibling(SingleContext, kind="test_sibling"):
        """Shows the next attempt."""

        reads = frozenset({GROUP})

        def messages(self, view: ContextView) -> Sequence[Message]:
            return (*view.task.messages, Message(role="user", content=f"Say it as here: {view.group[1].text}"))

    seen = view(task(), others=("Falcon",))  # refused: it is written with a capital
    recipe = showing(Sibling())
    LeakCheck(recipe).context("reference", seen, recipe.contexts["reference"].prompts(seen))
    right = replace(seen.group[1], text="falcon", verdict=Verdict(reward=1.0, correct=True))
    seen = replace(seen, group=(seen.group[0], right))
    with pytest.raises(Leak, match="'test_sibling' does not reveal"):
        LeakCheck(recipe).context("reference", seen, recipe.contexts["reference"].prompts(seen))


def test_an_attempt_of_one_letter_hides_nothing() -> None:
    assert caught(Telling(), task(), own="a")
    assert caught(Telling(), task(), own="fal")


def test_feedback_that_says_the_answer_is_caught() -> None:
    recipe = showing({"kind": "feedback"})
    for said, leaks in (("Expected falcon, got crow.", True), ("The answer is wrong.", False)):
        own = Rollout(index=0, text="a crow", verdict=Verdict(reward=0.0, correct=False, feedback=said))
        seen = ContextView(task=task(), rollout=own, group=(own,), step=1, rng=Random(0))
        prompts = recipe.contexts["reference"].prompts(seen)
        if leaks:
            with pytest.raises(
                Leak, match=r"contexts\.reference: .* task t-7 holds the task's answer, which 'feedback'"
            ):
                LeakCheck(recipe).context("reference", seen, prompts)
        else:
            LeakCheck(recipe).context("reference", seen, prompts)


@given(start=st.integers(0, 4), words=st.integers(14, 18))
def test_a_reference_is_found_in_large_pieces(start: int, words: int) -> None:
    piece = " ".join(REFERENCE.split()[start : start + words])
    assert caught(Telling(field="skill", around="{}"), task(answer=None, columns={"skill": piece}))
    assert not caught(
        Telling(field="skill", around="{}"), task(answer=None, columns={"skill": "Then follow the river."})
    )


@pytest.mark.parametrize("kind", ["reference", "answer"])
def test_what_a_context_reveals_it_may_show(kind: str) -> None:
    assert not caught({"kind": kind}, task(reference="The answer is: falcon"))


@pytest.mark.parametrize("field", ["reference", "answer"])
def test_the_loss_prompt_holds_no_secret(field: str) -> None:
    recipe = recipes.load("opsd").override({"rollout": {"kind": "test_forgetful", "field": field}})
    plan = recipe.rollout.plan(PlanView(task=task(), index=0, step=1, rng=Random(0)))
    with pytest.raises(Leak, match=f"rollout: the loss prompt of task t-7 holds the task's {field}") as leak:
        LeakCheck(recipe).loss_prompt(task(), plan)
    assert leak.value.field == "rollout" and "Plan.behaviour" in (leak.value.problem.remedy or "")


def test_what_only_a_context_shows_is_a_secret_too() -> None:
    recipe = recipes.load("opsd").override({"contexts": {"reference": {"kind": "skill"}}})
    secret = "Turn the word round before you look at its letters"
    of = task(columns={"skill": secret})
    plain = Plan(turns=(Turn(messages=of.messages),))
    LeakCheck(recipe).loss_prompt(of, plain)
    leaked = Plan(turns=(Turn(messages=(Message(role="system", content=secret), *of.messages)),), behaviour=of.messages)
    with pytest.raises(Leak, match="holds the task's skill"):
        LeakCheck(recipe).loss_prompt(of, leaked)
    LeakCheck(recipe).loss_prompt(of, Plan(turns=plain.turns, behaviour=leaked.turns[0].messages))


@pytest.mark.parametrize("name", recipes.names())
def test_no_recipe_leaks_of_itself(name: str) -> None:
    LeakCheck(recipes.load(name)).probe()


def test_a_part_that_always_leaks_is_found_before_there_is_data() -> None:
    with pytest.raises(Leak, match=r"contexts\.reference"):
        LeakCheck(showing(Telling())).probe()
    with pytest.raises(Leak, match="rollout"):
        LeakCheck(recipes.load("opsd").override({"rollout": {"kind": "test_forgetful"}})).probe()


def test_a_part_that_wants_other_texts_is_left_for_the_run() -> None:
    class Picky(Shown, kind="test_picky"):
        placeholder = "picked"
        template: str = "{question} {picked}"

        def content(self, view: ContextView) -> str:
            return str(1 // len(view.task.columns.get("numbers", ())))

    LeakCheck(showing(Picky())).probe()


class Untrue(ToyData):
    """Toy data whose hint is the answer, in every second task."""

    columns = frozenset({"answer", "reference", "hint"})

    def _task(self, rng: Random) -> Task:
        made = super()._task(rng)
        hint = "think twice" if int(made.id[-1], 16) % 2 else f"the answer is {made.answer}"
        return replace(made, columns={"hint": hint})


def trained(tmp_path: Path, mode: str, recipe: Recipe) -> Remembering:
    folder = tiny_model_folder(tmp_path / "model")
    (work := tmp_path / "work").mkdir()
    run = toy_run(recipe, steps=2, batch=8, leak_check=mode)
    reporter = Remembering()
    train(run, folder, Untrue(), LocalScorer({"self": load_model(folder)}), reporter, work)
    return reporter


def hinting() -> Recipe:
    told = Telling(field="hint").model_dump()
    return recipes.load("opsd").override({"rollout": {"max_tokens": 6}, "contexts": {"reference": told}})


def test_a_run_that_leaks_fails(tmp_path: Path) -> None:
    with pytest.raises(Leak, match=r"contexts\.reference: what it shows of task \w+ holds the task's answer"):
        trained(tmp_path, "fail", hinting())


def test_a_run_may_do_without_what_leaks(tmp_path: Path) -> None:
    steps = trained(tmp_path, "drop", hinting()).steps
    assert all(0 < report.metrics["leaks"] < 8 for report in steps)
    for report in steps:
        assert report.ledger.contexts == report.ledger.rollouts - report.metrics["leaks"]


def test_a_run_may_look_away(tmp_path: Path) -> None:
    steps = trained(tmp_path, "off", hinting()).steps
    assert all(report.ledger.contexts == report.ledger.rollouts for report in steps)
    assert all("leaks" not in report.metrics for report in steps)


def test_a_loss_prompt_that_leaks_is_never_learned_from(tmp_path: Path) -> None:
    forgetful = recipes.load("opsd").override({"rollout": {"kind": "test_forgetful", "max_tokens": 6}})
    with pytest.raises(Leak, match="the loss prompt of task"):
        trained(tmp_path, "drop", forgetful)
