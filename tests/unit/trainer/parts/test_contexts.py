"""What each context shows, to whom, and what its control arm shows instead."""

from __future__ import annotations

from random import Random

import pytest
from pydantic import ValidationError

from preceptor_trainer.parts.contexts import (
    Demonstration,
    Hint,
    PeerSuccess,
    Plain,
    Reference,
    Shown,
    Skills,
    corrupted,
)
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.recipe import Context
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

TASK = Task(
    id="one",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="Reverse {peer} sun")),
    answer="nus",
    reference="nus",
    columns={"hint": "It begins with: nu", "demonstration": "nus!"},
)
RIGHT, WRONG = Verdict(reward=1.0, correct=True), Verdict(reward=0.0, correct=False)


def view(
    task: Task = TASK, verdicts: tuple[Verdict | None, ...] = (WRONG, RIGHT), own: int = 0, seed: int = 0
) -> ContextView:
    group = [Rollout(index=index, text=f"try {index}", verdict=verdict) for index, verdict in enumerate(verdicts)]
    return ContextView(task=task, rollout=group[own], group=group, step=0, rng=Random(seed))


def shown(part: Shown, **settings: object) -> str | None:
    messages = part.messages(view(**settings))  # pyright: ignore[reportArgumentType]
    return None if messages is None else messages[-1]["content"]


def test_plain_is_the_students_own_prompt() -> None:
    (prompt,) = Plain().prompts(view())
    assert prompt.messages == TASK.messages


@pytest.mark.parametrize(
    ("part", "content"),
    [(Reference(), "nus"), (Demonstration(), "nus!"), (Hint(), "It begins with: nu"), (PeerSuccess(), "try 1")],
)
def test_the_template_stands_in_place_of_the_last_user_message(part: Shown, content: str) -> None:
    (prompt,) = part.prompts(view())
    system, user = prompt.messages
    assert system == TASK.messages[0]
    assert user["role"] == "user"
    expected = part.template.replace("{question}", "Q").replace(f"{{{part.placeholder}}}", content)
    assert user["content"] == expected.replace("Q", "Reverse {peer} sun", 1)


def test_placeholders_in_question_and_content_are_text() -> None:
    task = Task(id="x", messages=(Message(role="user", content="{reference}{question}"),), reference="{question} {x}")
    assert shown(Reference(template="{reference}|{question}"), task=task) == "{question} {x}|{reference}{question}"


@pytest.mark.parametrize("part", [Reference(), Demonstration(), Hint()])
def test_a_task_that_lacks_the_content_gets_no_opinion(part: Shown) -> None:
    assert part.prompts(view(Task(id="x", messages=TASK.messages))) == ()


def test_a_peer_is_never_the_rollout_itself_and_never_a_failure() -> None:
    assert PeerSuccess().prompts(view(verdicts=(RIGHT, WRONG), own=0)) == ()
    assert PeerSuccess().prompts(view(verdicts=(RIGHT,), own=0)) == ()
    assert PeerSuccess().prompts(view(verdicts=(None, None), own=0)) == ()
    for seed in range(20):
        content = shown(
            PeerSuccess(template="{question}|{peer}"), verdicts=(RIGHT, RIGHT, WRONG, RIGHT), own=1, seed=seed
        )
        assert content is not None
        assert content.split("|")[1] in {"try 0", "try 3"}


def test_which_peer_is_drawn_from_the_views_random_numbers() -> None:
    verdicts = (RIGHT,) * 9
    drawn = [shown(PeerSuccess(), verdicts=verdicts, seed=seed) for seed in range(9)]
    assert drawn == [shown(PeerSuccess(), verdicts=verdicts, seed=seed) for seed in range(9)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("part", [Reference(), Demonstration(), Hint(), PeerSuccess()])
def test_the_control_arm_differs_in_its_content_alone_and_is_the_same_on_resume(part: Shown) -> None:
    control = part.model_copy(update={"wrong": True})
    right, wrong = shown(part), shown(control)
    assert right is not None and wrong is not None
    assert wrong != right
    assert wrong == shown(control)
    before, after = part.template.split(f"{{{part.placeholder}}}")
    assert wrong.startswith(before.replace("{question}", "Reverse {peer} sun"))
    assert wrong.endswith(after)


@pytest.mark.parametrize(
    "text", ["nus", "a", "Anna", "4 + 3 = 7\n#### 7", "The answer is: 12", "Say: nus", "x:", "Straße"]
)
def test_corrupted_content_is_wrong_everywhere_it_says_something(text: str) -> None:
    for seed in range(20):
        wrong = corrupted(text, Random(seed))
        assert len(wrong) == len(text)
        changed = [(one, other) for one, other in zip(text, wrong, strict=True) if one != other]
        assert changed
        if any(char.isdigit() for char in text):
            assert [one for one, _ in changed] == [char for char in text if char.isdigit()]


def test_corruption_keeps_what_a_label_says() -> None:
    wrong = corrupted("The solution begins with: nu", Random(0))
    assert wrong.startswith("The solution begins with: ")
    assert not set(wrong[-2:]) & {" "}


def test_corruption_reaches_the_names_that_a_program_calls() -> None:
    text = "bim(rom(459)) is it"
    wrong = corrupted(text, Random(0))
    kept = "".join(char for char, other in zip(text, wrong, strict=True) if char == other)
    assert kept == "(()) is it"


def test_content_that_cannot_be_made_wrong_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither a digit nor a letter"):
        corrupted("+-", Random(0))


@pytest.mark.parametrize("template", ["{question}", "{reference}", "{question}{question}{reference}", ""])
def test_a_template_must_hold_its_placeholders(template: str) -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        Reference(template=template)


@pytest.mark.parametrize("settings", [{"template": "x {skill}"}, {"template": "{question}"}])
def test_skills_are_shown_beside_the_question(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="it must hold"):
        Skills.model_validate(settings)
    assert Skills(template="{question}, not: {mistake}").pairs == 8


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_setting_is_beyond_numbers(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        JSD(coefficient=value)


@pytest.mark.parametrize("part", [Plain(teacher="big"), Reference(wrong=True), Demonstration(), Hint(), PeerSuccess()])
def test_a_context_survives_the_wire(part: Context) -> None:
    assert Context.model_validate(part.model_dump()) == part


def test_what_each_context_needs_and_reveals() -> None:
    needs = {part.kind: part.columns for part in (Plain, Reference, Demonstration, Hint, PeerSuccess)}
    assert needs == {
        "plain": (),
        "reference": ("reference",),
        "demonstration": ("demonstration",),
        "hint": ("hint",),
        "peer_success": (),
    }
    assert Plain.reveals == frozenset()
    assert all("answer" in part.reveals for part in (Reference, Demonstration, Hint, PeerSuccess))
