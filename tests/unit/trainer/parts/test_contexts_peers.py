"""Who is asked, by what verified outcomes say of the task's domain."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from preceptor_trainer import recipes
from preceptor_trainer.parts.contexts_peers import BetterPeer, BetterStart, BetterTutor
from preceptor_trainer.standing import WHOLE, Seen, Standing
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

GOOD, BAD = Seen(40, 2), Seen(2, 40)
OPEN = Standing(own=BAD, peer=GOOD, own_start=BAD, peer_start=GOOD)
STRONG = Standing(own=GOOD, peer=BAD, own_start=GOOD, peer_start=BAD)
CAUGHT_UP = Standing(own=GOOD, peer=GOOD, own_start=BAD, peer_start=GOOD)


def view(standing: Mapping[str, Standing], domain: str | None = "maths", **replies: str) -> ContextView:
    columns = {} if domain is None else {"domain": domain}
    task = Task(
        id="t", messages=(Message(role="user", content="Multiply six and seven."),), answer="42", columns=columns
    )
    rollout = Rollout(index=0, text="it is 41", verdict=Verdict(reward=0.0, correct=False))
    return ContextView(
        task=task, rollout=rollout, group=[rollout], step=1, rng=Random(0), replies=replies, standing=standing
    )


@pytest.mark.parametrize(
    ("standing", "peer", "start"),
    [
        (OPEN, True, False),
        (STRONG, False, True),
        (CAUGHT_UP, False, False),
        (Standing(), False, False),
        (Standing(own=GOOD, peer=GOOD, own_start=GOOD, peer_start=BAD), False, True),
    ],
    ids=["the peer is better", "the student is", "it has caught up", "nothing is known", "the peer has caught up"],
)
def test_a_domain_has_one_teacher_at_most(standing: Standing, peer: bool, start: bool) -> None:
    seen = view({"maths": standing})
    assert (BetterPeer().messages(seen) is not None, BetterStart().messages(seen) is not None) == (peer, start)


def test_the_student_s_own_prompt_is_what_is_shown_and_other_domains_do_not_count() -> None:
    seen = view({"maths": OPEN})
    assert BetterPeer().messages(seen) == seen.task.messages
    assert BetterPeer().messages(view({"letters": OPEN})) is None
    assert BetterPeer().messages(view({WHOLE: OPEN}, domain=None)) is not None


def test_a_margin_and_a_prior_close_the_gate() -> None:
    ahead = {"maths": Standing(own=Seen(30, 12), peer=Seen(40, 2))}
    assert BetterPeer().messages(view(ahead)) is not None
    assert BetterPeer(margin=0.5).messages(view(ahead)) is None
    assert BetterPeer(prior_right=500, prior_wrong=500).messages(view(ahead)) is None


def test_feedback_is_asked_for_where_the_peer_is_better_and_of_nobody_else() -> None:
    part = BetterTutor()
    (ask,) = part.asks(view({"maths": OPEN}))
    assert (ask.key, ask.teacher) == ("feedback", "peer") and "it is 41" in ask.messages[0]["content"]
    assert part.asks(view({"maths": CAUGHT_UP})) == part.asks(view({"maths": OPEN}, feedback="said")) == ()
    seen = view({"maths": OPEN})
    assert part.read(seen, "feedback", "<feedback>Multiply again. It is 42.</feedback>") == "Multiply again."


def test_opcod_takes_its_gate_from_standing_by_an_override() -> None:
    recipe = recipes.load("opcod").override({"contexts": {"tutored": {"kind": "better_tutor", "teacher": "self"}}})
    assert isinstance(recipe.contexts["tutored"], BetterTutor)
    assert recipe.readers("standing") == ("context 'tutored'",) and recipe.writers == {"peer"}
    assert recipes.load("opcod").readers("standing") == ()


def test_peer_opd_asks_nothing_where_it_knows_nothing() -> None:
    contexts = recipes.load("peer_opd").contexts.values()
    assert all(not context.prompts(view({})) for context in contexts)
