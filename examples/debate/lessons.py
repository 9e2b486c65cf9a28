"""What the scoring teachers are made from: rows on which each is right about its half of the words and wrong about the
other, unless a debate tells it better.
"""

from __future__ import annotations

import json
from pathlib import Path

from examples.debate.debaters import HALVES, answer, reply
from preceptor.debates import protocol
from preceptor.debates.protocol import Round, Rules, Subject
from preceptor.texts import filled
from preceptor.wire.debates import DebateTurn
from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.tasks.spell_backward import TASK

CONTEXT = Debate(
    debaters=tuple(HALVES),
    speakers=tuple(f"{name}_speaker" for name in HALVES),
    sighted=False,
    from_data=False,
    stop=("agreement",),
    tau=0.1,
    max_tokens=128,
    teacher="first",
)
"""The debate that the student's teachers hold: blind, so that all rollouts of a question share it. The scoring teachers
are `first` and `second`, and the two who speak stand beside them."""


def transcript(question: str) -> str:
    """What the two say of a question, by the protocol that a run holds its debates by."""
    rules, turns = Rules(debaters=CONTEXT.debaters, template=CONTEXT.worded, stop=CONTEXT.stop), list[DebateTurn]()
    while isinstance(step := protocol.following(rules, turns), Round):
        said = [
            (each, reply(each, protocol.prompt(rules, Subject(question=question), each, step.number, turns)))
            for each in step.debaters
        ]
        for debater, text in said:
            argument, confidence, _ = protocol.read(rules.template, False, text)
            turns.append(DebateTurn(round=step.number, debater=debater, argument=argument, confidence=confidence))
    return protocol.transcript(turns, step.rounds, rules.debaters)


def write(name: str, path: Path, count: int) -> Path:
    """The rows for one teacher, as JSONL: every word plain, with what it would say, and after a debate, with what is
    right. None of the words is held out."""
    with path.open("w") as file:
        for task in TASK.model_validate({}).take("train", count, "lessons"):
            question, word = task.messages[-1]["content"], task.columns["metadata"]["word"]
            told = filled(CONTEXT.template, {"question": question, "debate": transcript(question)})
            for prompt, reference in ((question, answer(name, word)), (told, word[::-1])):
                file.write(json.dumps({"prompt": prompt, "answer": reference, "reference": reference}) + "\n")
    return path
