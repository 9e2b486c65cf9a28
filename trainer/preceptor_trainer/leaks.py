"""Privileged text stays where it was promised: out of the student's loss prompt, and a gold answer out of every context
whose `reveals` does not name it.

What is looked at is what a prompt *adds*: the question, the attempt itself, and of a context that shows siblings those
that the verifier refused, are taken out first, so that an answer which the question names, or which an attempt found,
is no leak. In what is left

- an answer is found as a whole word or number, case and spacing aside. One that says little by itself (fewer than
  4 letters and digits, or a word such as "true") would be found by chance, in a list's numbers say: it counts only
  where it is put as an answer ("the answer is 7", `\\boxed{7}`, `#### 7`).
- a longer text (a reference, a demonstration, a hint) is found where half of its runs of 8 words are there; one of
  fewer words whole. One shared sentence is no leak. Where the answer may be shown, so may a reference that says no
  more.

What it cannot see: a paraphrase, an answer in other words or digits. What it may see wrongly: an answer that is an
ordinary word which the context uses as one. `training.leak_check` says what happens then; no torch here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any, Literal

from preceptor.errors import Invalid
from preceptor_trainer.recipe import GROUP, Context, Recipe
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import ContextView, Message, Plan, PlanView, Prompt, Rollout, Task, Verdict

RUN = 8
"""Words of a run that two texts do not share by chance."""
SHARE = 0.5
"""Of a text's runs, how many must be found for it to have leaked."""
LEAST = 4
"""Letters and digits from which on an answer says something by itself."""
PLAIN_WORDS = frozenset(
    {"both", "correct", "equal", "false", "left", "neither", "none", "null", "right", "true", "zero"}
)
"""Answers that say nothing by themselves, though they are long enough."""
SAME_QUESTION = ("canonical", "shards")
"""Columns that hold the question in another form."""
TRIES = 16
"""Rollouts that are planned to see whether a policy leaks: some do something to a share only."""
_ASKED = (Message(role="user", content="What is meant?"),)
_WORD = re.compile(r"\w+|[^\w\s]")
_EDGE = "0-9A-Za-z_\u00c0-\u024f\u0370-\u04ff"
"""What continues a word, in scripts that put spaces between words."""
_PUT = (
    r"(?:answer|result|solution|expected|output)\W{0,4}(?:is|was|be|equals|of|value)?\W{0,6}"
    r"|####\s*|\\boxed\{\s*|<answer>\s*"
)
"""What an answer follows that is put as one."""


class Leak(Invalid):
    """Privileged text is where it was promised not to be."""

    slug, title = "leak", "A leak"


class LeakCheck:
    """Holds a recipe's prompts to what they promise.

    fail: a leak is an error. drop: a context that leaks has no opinion on the rollout, and it is counted. off: nobody
    looks. A loss prompt that leaks is an error either way, since there is no rollout without one.
    """

    def __init__(self, recipe: Recipe, mode: Literal["fail", "drop", "off"] = "fail") -> None:
        self._recipe, self._mode = recipe, mode
        self._dropped: defaultdict[int, set[tuple[str, str, int]]] = defaultdict(set)
        shown = {name for context in recipe.contexts.values() for name in context.columns}
        self._private = ("reference", "answer", *sorted(shown - {"answer", "reference", *SAME_QUESTION}))

    def loss_prompt(self, task: Task, plan: Plan) -> None:
        """Raises Leak where what the student learns under holds what only teachers may see."""
        if self._mode == "off":
            return
        added = _added((message for turn in plan.turns for message in turn.messages), _question(task))
        for field in self._private:
            if _holds(added, field, _field(task, field)):
                raise Leak(
                    f"rollout: the loss prompt of task {task.id} holds the task's {field}, and the student would learn "
                    "to need it.",
                    field="rollout",
                    remedy="Show it to the writer alone (Plan.behaviour), or to a teacher (a context).",
                )

    def kept(self, name: str, view: ContextView, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts; none where one leaks and leaks are dropped. Raises Leak where they are not."""
        if self._mode == "off":
            return prompts
        try:
            self.context(name, view, prompts)
        except Leak:
            if self._mode == "fail":
                raise
            # A set: what is asked again after a rollback is counted once.
            self._dropped[view.step].add((name, view.task.id, view.rollout.index))
            return ()
        return prompts

    def begin_again(self) -> None:
        """What was looked at is looked at anew, with other teachers' words in it."""
        self._dropped.clear()

    def metrics(self, step: int) -> dict[str, float]:
        """How many opinions of a step were dropped. Asked once, when all of it was heard."""
        return {"leaks": float(len(self._dropped.pop(step, ())))} if self._mode == "drop" else {}

    def context(self, name: str, view: ContextView, prompts: Sequence[Prompt]) -> None:
        """Raises Leak where a prompt holds an answer or a reference that its context does not reveal."""
        context = self._recipe.contexts[name]
        hidden = [field for field in ("reference", "answer") if field not in _revealed(context)]
        if not hidden or not prompts:
            return
        known = [*_question(view.task), view.rollout.text]
        if GROUP in context.reads:  # what was refused is no gold; a success shows the answer, and `reveals` must say so
            refused = [each.text for each in view.group if each.verdict is not None and not each.verdict.correct]
            known += [*refused, *map(final_answer, refused)]
        for prompt in prompts:
            added = _added(prompt.messages, known)
            for field in hidden:
                secret = _field(view.task, field)
                telling = "answer" in hidden or len(_WORD.findall(secret)) > RUN
                if telling and _holds(added, field, secret):
                    raise Leak(
                        f"contexts.{name}: what it shows of task {view.task.id} holds the task's {field}, which "
                        f"'{context.kind}' does not reveal.",
                        field=f"contexts.{name}",
                        remedy=f"Take the {field} out of what is shown. Where it is meant, `reveals` of the context "
                        "must name it; where it is chance, set training.leak_check to drop or off.",
                    )

    def probe(self) -> None:
        """The same of a made-up task, before there is any data: what leaks there leaks always. Raises Leak.

        A part that cannot do with made-up texts is left for the run.
        """
        said = Verdict(reward=1.0, correct=True), Verdict(reward=0.0, correct=False, feedback="That is wrong.")
        columns = {name: _made_up(name) for name in self._private[2:]}
        task = Task(id="made-up", messages=_ASKED, answer=_made_up("answer"), reference=_made_up("reference"))
        task = replace(task, columns=columns)
        group = tuple(Rollout(index=i, text=f"attempt {i}", verdict=each) for i, each in enumerate(said))
        with _attempt():
            for index in range(TRIES):
                view = PlanView(task=task, index=index, step=1, rng=Random(index))
                self.loss_prompt(task, self._recipe.rollout.plan(view))
        for name, context in self._recipe.contexts.items():
            with _attempt():
                view = ContextView(task=task, rollout=group[1], group=group, step=1, rng=Random(0))
                if not context.asks(view):
                    self.context(name, view, context.prompts(view))


@contextmanager
def _attempt() -> Generator[None]:
    """Lets Leak through and nothing else."""
    try:
        yield
    except Leak:
        raise
    except Exception:  # the boundary: whatever somebody's part makes of texts that nobody wrote
        return


def _made_up(field: str) -> str:
    """A text that nobody writes by chance."""
    return " ".join(f"{field}{number}quizzacious" for number in range(2 * RUN if field != "answer" else 1))


def _revealed(context: Context) -> frozenset[str]:
    """A reference ends in the answer, and says it."""
    return context.reveals | ({"answer"} if "reference" in context.reveals else set())


def _question(task: Task) -> list[str]:
    columns = (task.columns.get(name) for name in SAME_QUESTION)
    pieces = [piece for held in columns for piece in (held if isinstance(held, list | tuple) else [held])]
    return [message["content"] for message in task.messages] + [piece for piece in pieces if isinstance(piece, str)]


def _field(task: Task, name: str) -> str:
    value: Any = getattr(task, name) if name in ("answer", "reference") else task.columns.get(name)
    return value if isinstance(value, str) else ""


def _added(messages: Iterable[Message], known: Iterable[str]) -> str:
    """What messages say beyond the texts that are known."""
    text = "\n".join(message["content"] for message in messages)
    for piece in sorted({each.strip() for each in known}, key=len, reverse=True):
        if piece and piece in text:  # whole words of it: an attempt may be a single letter
            text = re.sub(rf"(?<!\w){re.escape(piece)}(?!\w)", "\n", text)
    return text.casefold()


def _holds(added: str, field: str, secret: str) -> bool:
    secret = secret.casefold().strip()
    if not secret or not added.strip():
        return False
    words = _WORD.findall(secret)
    if field != "answer" and len(words) > RUN:
        return _shares(tuple(words), tuple(_WORD.findall(added)))
    return _said(secret).search(added) is not None


def _shares(words: tuple[str, ...], shown: tuple[str, ...]) -> bool:
    runs = {words[begin : begin + RUN] for begin in range(len(words) - RUN + 1)}
    found = runs & {shown[begin : begin + RUN] for begin in range(len(shown) - RUN + 1)}
    return len(found) >= SHARE * len(runs)


@lru_cache(maxsize=4096)
def _said(secret: str) -> re.Pattern[str]:
    """Where a text of few words is said, whole."""
    words = _WORD.findall(secret)
    whole = r"\s*".join(re.escape(word) for word in words)
    before = rf"(?<![{_EDGE}])(?<!\d[.,])" if re.match(f"[{_EDGE}]", words[0]) else ""
    after = rf"(?![{_EDGE}])(?![.,]\d)" if re.match(f"[{_EDGE}]", words[-1][-1]) else ""
    says_little = sum(char.isalnum() for char in secret) < LEAST or secret in PLAIN_WORDS
    return re.compile((rf"(?:{_PUT})" if says_little else "") + before + whole + after)
