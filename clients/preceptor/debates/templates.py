"""The wording of debates that comes with Preceptor. What is stored under the same name has the versions after it."""

from __future__ import annotations

from collections.abc import Mapping

from preceptor.wire.debates import DebateTemplate

REPLY = (
    "Reply with your argument between <argument> and </argument>, {answer}with how sure you are of it, from 0 to 100, "
    "between <confidence> and </confidence>."
)
_SAID = "What was said so far:\n<debate>\n{debate}\n</debate>\n\n"
_QUESTION = "<question>\n{question}\n</question>\n\n"
_ATTEMPT = "<attempt>\n{attempt}\n</attempt>\n\n"
SIGHTED = "You are one of several experts who discuss a student's answer to a question.\n\n"
BLIND = "You are one of several experts who discuss a question.\n\n"


def ask(opening: str, *, sighted: bool, answer: bool) -> str:
    """What a debater reads."""
    wanted = "with nothing but the answer that you stand by between <answer> and </answer>, and then " if answer else ""
    return (
        opening
        + _QUESTION
        + (_ATTEMPT if sighted else "")
        + _SAID
        + REPLY.replace("{answer}", wanted or "and then ", 1)
    )


BUILT_IN: Mapping[str, DebateTemplate] = {
    "discussion": DebateTemplate(
        ask=ask("{role}" + BLIND, sighted=False, answer=True),
        ask_sighted=ask("{role}" + SIGHTED, sighted=True, answer=True),
    ),
    "panel": DebateTemplate(
        ask=ask("{role}" + BLIND, sighted=False, answer=True),
        ask_sighted=ask("{role}" + SIGHTED, sighted=True, answer=True),
        roles=(
            "You argue for the answer that you find most likely, step by step. ",
            "You look for what is wrong in what the others said, and say what is right instead. ",
            "You weigh what was said, and side with whoever has shown most. ",
        ),
        rounds=3,
    ),
}
"""By name; each is version 1."""
