"""The minutes of a run's debates: what was said, by whom, about which rollout; and what had been said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from preceptor.debates import protocol
from preceptor.wire.debate_reports import HeldDebate, KnownDebate, RunWish
from preceptor.wire.debates import DebateTurn, Voice
from preceptor_trainer.asking import Scorer
from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.texts import Case, Spoken


class Book(Protocol):
    """Where debates are kept: the control plane's, by way of the worker."""

    def known(self, wishes: Sequence[RunWish]) -> Sequence[KnownDebate | None]:
        """For each the one that was held before; None: there is none, or it cannot be had."""
        ...


def recall(cases: Sequence[Case], scorer: Scorer, book: Book) -> None:
    """Give the cases what was said in debates that were held before: nobody is asked for it again."""
    wanted: dict[str, tuple[RunWish, list[Case]]] = {}
    for case in cases:
        asker, seen = case.asker, case.seen()
        if not isinstance(asker, Debate) or asker.fresh or asker.temperature > 0 or asker.given(seen) is not None:
            continue
        wish = RunWish(wish=asker.wish(seen), template=asker.worded, voices=voices_of(asker, scorer))
        wanted.setdefault(wish.model_dump_json(), (wish, []))[1].append(case)
    found = book.known([wish for wish, _ in wanted.values()]) if wanted else ()
    for (_, alike), known in zip(wanted.values(), found, strict=True):
        if known is None:
            continue
        said = {Debate.key(turn.round, turn.debater): turn.model_dump_json() for turn in known.turns}
        for case in alike:
            case.held_in = known.debate
            case.replies |= said


def minutes(cases: Sequence[Case], step: int, scorer: Scorer) -> tuple[HeldDebate, ...]:
    """The debates that were held about these, and are to be stored. What several rollouts share is told once."""
    held: dict[tuple[str, str, str, tuple[DebateTurn, ...]], HeldDebate] = {}
    for case in cases:
        asker = case.asker
        if not isinstance(asker, Debate) or not asker.record_every or step % asker.record_every:
            continue
        seen = case.seen()
        if asker.given(seen) is not None:
            continue
        voices = voices_of(asker, scorer)
        wish = asker.wish(seen)
        said = asker.turns(seen) if case.held_in is None else ()
        turns = tuple(_told(turn, case.spoken, voices, asker.max_tokens) for turn in said)
        one = HeldDebate(
            wish=wish,
            template=asker.worded,
            voices=voices,
            step=step,
            context=case.name,
            task=seen.task.id,
            rollout=seen.rollout.index,
            turns=turns,
            cached_from=case.held_in,
        )
        held.setdefault((case.name, seen.task.id, wish.model_dump_json(), turns), one)
    return tuple(held.values())


def voices_of(debate: Debate, scorer: Scorer) -> dict[str, Voice]:
    """Who speaks for each debater, as their cards say."""
    pairs = zip(debate.debaters, debate.writers, strict=True)
    return {debater: Voice.of(scorer.card(role), role) for debater, role in pairs}


def _told(turn: DebateTurn, spoken: Mapping[str, Spoken], voices: Mapping[str, Voice], longest: int) -> DebateTurn:
    """A turn with what it took."""
    came = spoken[Debate.key(turn.round, turn.debater)]
    told: dict[str, object] = {"seconds": came.seconds, "detail": came.wrong[1][:1000] if came.wrong else None}
    if came.reply is not None:
        version = came.reply.weights_version
        told["tokens"] = protocol.written(came.reply, longest)
        told["weights_version"] = voices[turn.debater].weights_version if version is None else version
    return turn.model_copy(update=told)
