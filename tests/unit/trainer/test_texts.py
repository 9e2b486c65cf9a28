"""Texts are asked for side by side and once, read strictly, and what goes wrong is counted and teaches nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from random import Random

import pytest
import torch

from preceptor.errors import Interrupted, TeacherUnavailable
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.runs import OnFailure
from preceptor.wire.score import ScoreRequest, Scores
from preceptor_trainer import recipes
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.parts.contexts_tutored import Tutored
from preceptor_trainer.recipe import SingleContext
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.texts import Case, Texts, side_by_side, told_of, wording
from preceptor_trainer.views import Ask, ContextView, Message, Rollout, Task, Verdict
from preceptor_trainer.writer import Writer
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, ToyData


class Asking(SingleContext, kind="test_asking_texts"):
    """Wants a word on the task, and another one on what that said."""

    writer: str = "critic"
    temperature: float = 0.0
    rounds: int = 2
    again: bool = False

    @property
    def writers(self) -> tuple[str, ...]:
        return ("critic",)

    def asks(self, view: ContextView) -> Sequence[Ask]:
        done = 0 if self.again else len(view.replies)
        if done >= self.rounds:
            return ()
        said = " ".join([view.task.id, *list(view.replies.values())[-1:]])
        ask = Ask(key=str(done), teacher=self.writer, messages=(Message(role="user", content=said),))
        return (Ask(key=ask.key, teacher=ask.teacher, messages=ask.messages, temperature=self.temperature),)

    def read(self, view: ContextView, key: str, reply: str) -> str:
        if not reply.startswith("ok"):
            raise ValueError("it does not begin with ok")
        return reply

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        return (Message(role="user", content=view.replies[str(self.rounds - 1)]),)


class Desk:
    """A scorer that only writes."""

    def __init__(self, write: Callable[[ChatRequest], Reply | Exception]) -> None:
        self._write = write
        self.asked: list[ChatRequest] = []
        self._lock = threading.Lock()

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        with self._lock:
            self.asked.append(request)
        said = self._write(request)
        if isinstance(said, Exception):
            raise said
        return said


def case(context: Asking, task: str, index: int = 0) -> Case:
    own = Rollout(index=index, text="x")
    messages = (Message(role="user", content="?"),)

    def view(replies: object) -> ContextView:
        return ContextView(
            task=Task(id=task, messages=messages),
            rollout=own,
            group=(own,),
            step=1,
            rng=Random(0),
            replies=replies,  # pyright: ignore[reportArgumentType]
        )

    return Case(name="c", asker=context, on_failure=context.on_failure, row=index, view=view)


def agree(request: ChatRequest) -> Reply:
    return Reply(text=f"ok {request.messages[0].content}", finished=True)


def texts(write: Callable[[ChatRequest], Reply | Exception], seed: int = 0) -> tuple[Texts, Desk]:
    desk = Desk(write)
    return Texts(desk, seed), desk  # pyright: ignore[reportArgumentType]


def test_a_context_is_asked_again_with_the_replies_until_it_wants_no_more() -> None:
    asking, desk = texts(agree)
    one = case(Asking(), "a")
    ledger = asking.gather([one], 1)
    assert one.replies == {"0": "ok a", "1": "ok a ok a"} and not one.silent
    assert ledger["critic"].texts == 2 and [each.temperature for each in desk.asked] == [0.0, 0.0]


def test_equal_wishes_of_a_step_are_asked_once_also_by_later_parts_of_its_batch() -> None:
    asking, desk = texts(agree)
    cases = [case(Asking(), name, index) for name in "ab" for index in range(3)]
    assert asking.gather(cases, 1)["critic"].texts == 4
    again = case(Asking(), "a", 7)
    assert asking.gather([again], 1) == {} and again.replies == cases[0].replies
    assert len(desk.asked) == 4
    asking.gather([case(Asking(), "a")], 2)
    assert len(desk.asked) == 6, "the next step's teacher may have moved"


def test_what_a_role_wrote_is_asked_for_anew_once_another_fills_it_and_all_is_counted_once() -> None:
    asking, desk = texts(agree)
    assert asking.gather([case(Asking(), "a")], 1)["critic"].texts == 2
    asking.begin_again({"judge"})
    assert asking.gather([case(Asking(), "a")], 1)["critic"].texts == 2 and len(desk.asked) == 2
    assert asking.gather([case(Asking(), "a")], 1) == {}
    asking.begin_again({"critic"})
    assert asking.gather([case(Asking(), "a")], 1)["critic"].texts == 2 and len(desk.asked) == 4


@pytest.mark.parametrize("error", [Interrupted("It is over.", teacher="x"), TeacherUnavailable("Away.", teacher="x")])
def test_what_is_asked_beside_a_call_that_is_broken_off_is_waited_for(error: Exception) -> None:
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def ask(which: str) -> None:
        if which == "fails":
            assert began.wait(30)
            if isinstance(error, Interrupted):
                threading.Timer(0.01, go.set).start()
            raise error
        began.set()
        assert go.wait(30)
        ended.set()

    with pytest.raises(type(error)):
        side_by_side(ask, ["fails", "goes on"])
    assert ended.is_set() == isinstance(error, Interrupted)
    go.set()


def test_what_is_drawn_depends_on_the_run_and_the_rollout_alone() -> None:
    def seeds(seed: int, steps: Sequence[int] = (1,)) -> list[int]:
        asking, desk = texts(agree, seed)
        for step in steps:
            asking.gather([case(Asking(temperature=1.0, rounds=1), "a", index) for index in range(2)], step)
        return sorted(each.seed or 0 for each in desk.asked)

    first = seeds(0)
    assert first == seeds(0) and len(set(first)) == 2 and 0 not in first
    assert not set(first) & set(seeds(1)) and len(set(seeds(0, (1, 2)))) == 4


def test_texts_are_asked_for_side_by_side() -> None:
    together = threading.Barrier(3, timeout=30)

    def write(request: ChatRequest) -> Reply:
        together.wait()  # nobody goes on before three are here
        return agree(request)

    asking, _ = texts(write)
    asking.gather([case(Asking(rounds=1), name) for name in "abc"], 1)


def test_a_text_without_the_form_or_cut_off_is_counted_and_silences_its_rollouts_alone() -> None:
    def write(request: ChatRequest) -> Reply:
        word = request.messages[0].content
        return Reply(text="no" if word == "a" else "ok", finished=word != "b")

    asking, _ = texts(write)
    cases = [case(Asking(rounds=1), name, index) for index, name in enumerate("aabc")]
    ledger = asking.gather(cases, 1)["critic"]
    assert (ledger.texts, ledger.unreadable, ledger.unwritten) == (3, 3, 0)
    assert [each.silent for each in cases] == [True, True, True, False]


@pytest.mark.parametrize("on_failure", ["wait", "fallback", "drop"])
def test_nobody_who_writes_ends_the_run_unless_the_context_does_without(on_failure: OnFailure) -> None:
    asking, _ = texts(lambda request: TeacherUnavailable("gone", teacher="critic"))
    cases = [case(Asking(on_failure=on_failure), "a", index) for index in range(2)]
    if on_failure != "drop":
        with pytest.raises(TeacherUnavailable):
            asking.gather(cases, 1)
        return
    ledger = asking.gather(cases, 1)["critic"]
    assert (ledger.texts, ledger.unwritten, ledger.unreadable) == (0, 1, 0)
    assert all(each.silent for each in cases)


SAID = {
    "kept": "<feedback>Multiply again.</feedback>",
    "cut": "<feedback>42! Multiply again. It is 42.</feedback>",
    "only the answer": "<feedback>It is 42.</feedback>",
    "off the question": "<feedback>Lovely weather today.</feedback>",
    "no tags": "Multiply again.",
    "nobody": TeacherUnavailable("gone", teacher="peer"),
}
"""What a peer says of an attempt, by its text."""


def tutored(attempt: str) -> Case:
    """An attempt beside one that succeeded."""
    columns = {"domain": "letters" if attempt == "cut" else "maths"}
    task = Task(
        id="t", messages=(Message(role="user", content="Multiply six by seven."),), answer="42", columns=columns
    )
    own = Rollout(index=0, text=attempt, verdict=Verdict(reward=0.0, correct=False))
    other = Rollout(index=1, text="42!", verdict=Verdict(reward=1.0, correct=True))

    def view(replies: Mapping[str, str]) -> ContextView:
        return ContextView(task=task, rollout=own, group=(own, other), step=1, rng=Random(0), replies=replies)

    return Case(name="tutored", asker=Tutored(), on_failure="drop", row=0, view=view)


def test_a_peer_is_heard_by_domain_and_where_nothing_of_it_is_left_its_gate_is_closed() -> None:
    def write(request: ChatRequest) -> Reply | Exception:
        asked = request.messages[0].content
        said = next((SAID[each] for each in SAID if f"\n{each}\n" in asked), "<solution>42</solution>")
        return said if isinstance(said, Exception) else Reply(text=said, finished=True)

    asker, _ = texts(write)
    cases = {attempt: tutored(attempt) for attempt in SAID}
    counts = asker.gather(list(cases.values()), 1)["peer"]
    assert (counts.texts, counts.unreadable, counts.unwritten) == (6, 3, 1), "equal attempts of its own are asked once"
    shown, left_out = {"feedback/maths": 1.0, "feedback/letters": 1.0}, {"feedback_cut/maths": 1.0}
    assert told_of(list(cases.values())) == {**shown, **left_out, "feedback_cut/letters": 2.0}
    alone = Tutored(peer=None).prompts(tutored("kept").seen())
    for attempt, each in cases.items():
        (prompt,) = Tutored().prompts(each.seen())
        assert not each.silent and "42!" in prompt.messages[0]["content"]
        if attempt in ("kept", "cut"):
            assert (
                "Multiply again." in prompt.messages[0]["content"] and "It is 42" not in prompt.messages[0]["content"]
            )
        else:
            assert [prompt] == list(alone), "as without a peer"


def test_an_attempt_of_a_peer_that_is_cut_off_is_none_that_succeeded() -> None:
    asker, desk = texts(lambda request: Reply(text="<solution>42</solution>", finished=False))
    counts = asker.gather([each := tutored("kept")], 1)["peer"]
    assert counts.unreadable == 1 and not each.silent and len(desk.asked) == 1, "it is not asked for feedback"
    assert told_of([each]) == {"feedback/maths": 0.0, "feedback_cut/maths": 0.0}


@pytest.mark.parametrize(
    ("context", "why"),
    [
        (Asking(writer="other"), "wants text from role 'other', and says that its writers are critic"),
        (Asking(again=True), "asks for '0' again"),
        (Asking(rounds=100), "still wants text after 32 rounds"),
    ],
)
def test_a_context_that_asks_amiss_is_told(context: Asking, why: str) -> None:
    asking, _ = texts(agree)
    with pytest.raises(ValueError, match=why):
        asking.gather([case(context, "a")], 1)


def test_the_wording_of_a_context_changes_with_its_templates_alone() -> None:
    critique, plain = (recipes.load(name).contexts for name in ("step_critique", "opd"))
    part = critique["critique"]
    changed = [
        part.model_copy(update={name: "{question} {critique} {attempt}"}) for name in ("template", "ask_template")
    ]
    assert wording(part) == wording(part.model_copy(update={"on_failure": "drop", "max_tokens": 3}))
    assert len({wording(each) for each in (part, *changed)}) == 3
    assert str(wording(part)).startswith("critique@") and wording(plain["teacher"]) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))


def test_a_silent_context_has_no_opinion_and_the_others_carry_their_wording(model: Model) -> None:
    recipe = recipes.load("step_critique").override({"rollout": {"max_tokens": 6, "samples": 2}})
    rows = Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(ToyData().train(1, 2, 0), 1)
    first = rows[0].task.messages[-1]["content"]

    def write(role: str, request: ChatRequest) -> Reply:
        said = "nothing to say" if first in request.messages[0].content else "<critique>\nthink\n</critique>"
        return Reply(text=said, finished=True)

    opinions = Opinions(recipe, model, LocalScorer({"self": model}, write), 0, torch.float32)
    heard = opinions.hear(rows, 1)
    assert sorted({wish.row for wish in heard.wishes}) == [2, 3]
    assert heard.texts["critic"].unreadable == 2
    (slot,) = opinions.gather([heard]).slots["critique"]
    assert [index in slot.stamps for index in range(4)] == [False, False, True, True]
    assert slot.stamps[2].wording == wording(recipe.contexts["critique"])


def test_a_debater_who_babbles_is_counted_and_the_others_scores_make_up_for_it(model: Model) -> None:
    recipe = recipes.load("mad_opd").override({"rollout": {"max_tokens": 6, "samples": 2}})
    rows = Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(ToyData().train(1, 2, 0), 1)
    lost = rows[0].task.messages[-1]["content"]

    def write(role: str, request: ChatRequest) -> Reply:
        if role == "first" and lost in request.messages[0].content:
            return Reply(text="I am not sure.", finished=True)
        sure = {"first": 90, "second": 30}[role]
        return Reply(text=f"<argument>-</argument><confidence>{sure}</confidence>", finished=True)

    opinions = Opinions(recipe, model, LocalScorer({"first": model, "second": model}, write), 0, torch.float32)
    heard = opinions.hear(rows, 1)
    assert (heard.texts["first"].unreadable, heard.texts["second"].unreadable) == (2, 0)
    assert [(wish.row, wish.role) for wish in heard.wishes if wish.row < 2] == [(0, "second"), (1, "second")]
    slots = opinions.gather([heard]).slots["debate"]
    whole_T = torch.stack([slot.weight_T * slot.present_T for slot in slots]).sum(0)
    torch.testing.assert_close(whole_T, torch.ones_like(whole_T))


class Away(LocalScorer):
    """`first` gives no scores."""

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        if role == "first":
            raise TeacherUnavailable("gone", teacher=role)
        return super().score(role, request, on_failure=on_failure)


def test_a_debater_whose_scores_are_dropped_is_made_up_for(model: Model) -> None:
    changes = {"rollout": {"max_tokens": 6}, "contexts": {"debate": {"on_failure": "drop"}}}
    recipe = recipes.load("mad_opd").override(changes)
    rows = Writer(recipe.rollout, model, LocalSampler(model), seed=0).write(ToyData().train(1, 2, 0), 1)

    def write(role: str, request: ChatRequest) -> Reply:
        return Reply(text=f"<argument>-</argument><confidence>{len(role)}</confidence>", finished=True)

    asked = Opinions(recipe, model, Away({"first": model, "second": model}, write), 0, torch.float32).ask(rows, 1)
    assert asked.dropped == len(rows)
    first, second = asked.slots["debate"]
    assert not first.present_T.any()
    torch.testing.assert_close(second.weight_T, torch.ones_like(second.weight_T))
