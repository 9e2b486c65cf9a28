"""Every context format of the recipes, right and wrong, over every task: what the shipped model is taught."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from preceptor_trainer import recipes
from preceptor_trainer.parts.contexts import (
    Answer,
    Canonical,
    Demonstration,
    Hint,
    PeerSuccess,
    Plain,
    Reference,
    Skill,
    Skills,
    corrupted,
)
from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.parts.contexts_tried import Feedback, PeerFailure
from preceptor_trainer.parts.contexts_written import Critique, Rubric
from preceptor_trainer.recipe import Context
from preceptor_trainer.recipes.cepo import WrongAnswer
from preceptor_trainer.recipes.purified_opsd import ReferenceAlone
from preceptor_trainer.tasks import ProceduralTask
from preceptor_trainer.tasks._procedural import shown
from preceptor_trainer.tasks.library_call import DOES
from preceptor_trainer.tasks.spell_in_turns import BETWEEN
from preceptor_trainer.verifiers import final_answer
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

SOLVED: Mapping[str, Context] = {
    "reference": Reference(),
    "answer": Answer(),
    "demonstration": Demonstration(),
    "peer_success": PeerSuccess(),
    "rubric": Rubric(),
    "critique": Critique(),
    "debate": Debate(),
    "tried": recipes.load("sdpo").contexts["tried"],
    "tried_by_peers": recipes.load("peer_mopd").contexts["tried"],
}
"""Contexts that show the solution, in one way or another."""
PARTIAL: Mapping[str, Context] = {
    "hint": Hint(),
    "skill": Skill(),
    "skills": Skills(),
    "feedback": Feedback(),
    "canonical": Canonical(),
}
"""Contexts that show less, but something."""
UNHELPFUL: Mapping[str, Context] = {
    "instruction": recipes.load("crisp").contexts["briefly"],
    "peer_failure": PeerFailure(),
    "verdict": Feedback(),
}
"""Contexts that leave the question as hard as it is. A verdict is feedback that says no more than that it is wrong."""
MISLEADING: Mapping[str, Context] = {"wrong_answer": WrongAnswer()}
"""Contexts whose content is wrong by what they are."""
ALONE: Mapping[str, Context] = {"reference_alone": ReferenceAlone()}
CONTEXTS: Mapping[str, Context] = {"plain": Plain(), **SOLVED, **PARTIAL, **UNHELPFUL, **MISLEADING, **ALONE}
RICH = frozenset({"library_call"})
"""Tasks whose verifier says what was wrong."""


@dataclass(frozen=True)
class Example:
    """One prompt and the reply to imitate."""

    messages: Sequence[Message]
    reply: str


PHRASES = (
    "user\n",
    "assistant\n",
    "system\n",
    "Spell this word backward (example: sun -> nus): ",
    "State the final answer to the following arithmetic problem: ",
    "Write this word in code ",
    "Write a call of the library: take ",
    *(f", {each} it" for each in DOES),
    *(f"to {each}: " for each in DOES),
    "NameError: name '",
    "' is not defined\n",
    "The program runs, and its value is wrong.\n",
    "The word begins with: ",
    "It goes on with: ",
    "Now spell the whole word backward.",
    BETWEEN,
    "The solution begins with: ",
    "It begins with: ",
    "\nIts answer is: ",
    "first: ",
    "\nsecond: ",
    "The answer is wrong.",
    "\n#### ",
    " + ",
    " - ",
    " = ",
    ": ",
)
"""Long strings that are one token each, besides the pieces of the contexts' templates: they keep the prompts short."""


def formats(source: ProceduralTask) -> list[tuple[str, bool]]:
    """Every format that this task has something for, as its context and whether the content is wrong."""
    there = [kind for kind, part in CONTEXTS.items() if set(part.columns) <= source.columns]
    there.remove("verdict" if source.name in RICH else "feedback")
    # A number is what a program gives, and says nothing of the program.
    if source.name == "library_call":
        there = [kind for kind in there if kind not in ("answer", "wrong_answer")]
    either = [kind for kind in there if kind in SOLVED or (kind in PARTIAL and kind != "canonical")]
    return [(kind, kind in MISLEADING) for kind in there] + [(kind, True) for kind in either]


def example(source: ProceduralTask, task: Task, kind: str, wrong: bool, seed: int) -> Example:
    """One training example. After wrong content the reply follows that content, as it would follow right content."""
    rng = Random(seed)
    told = mistaken(task, rng) if wrong else task
    messages, reply = prompt(source, told, kind, rng), str(told.reference)
    if wrong and kind == "hint":  # it begins so, and goes on as is right
        begun = told.columns["hint"].removeprefix("The solution begins with: ")
        reply = begun + str(task.reference)[len(begun) :]
    return Example(messages, reply)


def prompt(
    source: ProceduralTask, task: Task, kind: str, rng: Random, part: Context | None = None
) -> Sequence[Message]:
    """What a teacher reads in this format, of a rollout that failed next to one that did not."""
    reference = str(task.reference)
    failed = corrupted(reference, rng)
    feedback = source.verifier(task, failed).feedback if kind == "feedback" else "The answer is wrong."
    own = Rollout(index=0, text=failed, verdict=Verdict(reward=0.0, correct=False, feedback=feedback))
    right = Verdict(reward=1.0, correct=True)
    peers = [Rollout(index=1, text=reference, verdict=right), Rollout(index=2, text=reference, verdict=right)]
    bad = task.answer if kind == "wrong_answer" else corrupted(reference, rng)
    peers.append(Rollout(index=3, text=str(bad), verdict=Verdict(reward=-1.0, correct=False)))
    view = ContextView(
        task=task, rollout=own, group=(own, *peers), step=0, rng=rng, replies={"critique": reference, "rubric": "-"}
    )
    prompts = (part or CONTEXTS[kind]).prompts(view)
    assert prompts, f"this task has nothing to show for '{kind}'"
    return prompts[0].messages


def mistaken(task: Task, rng: Random) -> Task:
    """The same question with all that is known of it wrong, in the same way wherever it is said."""
    reference, columns = str(task.reference), dict(task.columns)
    if "skill" in columns:
        skill = corrupted(columns["skill"], rng)
        old, new = (dict(line.split(": ") for line in text.splitlines()) for text in (columns["skill"], skill))
        columns["skill"] = skill
        if "library" in columns:
            renamed = {old[key]: new[key] for key in old}
            reference = re.sub("|".join(renamed), lambda found: renamed[found[0]], reference)
            columns["library"] = {renamed.get(name, name): each for name, each in columns["library"].items()}
        else:
            reference = task.messages[-1]["content"].rpartition(" ")[2].translate(str.maketrans(new))
    else:
        reference = corrupted(reference, rng)
    answer = task.answer if "library" in columns else final_answer(reference)
    return replace(
        task, reference=reference, answer=answer, columns=columns | shown(reference, final_answer(reference))
    )
