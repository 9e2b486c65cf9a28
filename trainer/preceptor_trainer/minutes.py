"""The minutes of a run's debates: what was said, by whom, about which rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preceptor.debates import protocol
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.debates import DebateTurn, Voice
from preceptor_trainer.asking import Scorer
from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.texts import Case, Spoken


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
        turns = tuple(_told(turn, case.spoken, voices, asker.max_tokens) for turn in asker.turns(seen))
        one = HeldDebate(
            wish=wish,
            template=asker.worded,
            voices=voices,
            step=step,
            context=case.name,
            task=seen.task.id,
            rollout=seen.rollout.index,
            turns=turns,
        )
        held.setdefault((case.name, seen.task.id, wish.model_dump_json(), turns), one)
    return tuple(held.values())


def voices_of(debate: Debate, scorer: Scorer) -> dict[str, Voice]:
    """Who speaks for each debater, as their cards say."""
    return {
        debater: Voice(
            role=role,
            teacher=card.teacher,
            model=card.model,
            engine=card.engine,
            weights_version=card.weights_version,
            weights_hash=card.weights_hash,
        )
        for debater, role in zip(debate.debaters, debate.writers, strict=True)
        for card in (scorer.card(role),)
    }


def _told(turn: DebateTurn, spoken: Mapping[str, Spoken], voices: Mapping[str, Voice], longest: int) -> DebateTurn:
    """A turn with what it took."""
    came = spoken[Debate.key(turn.round, turn.debater)]
    told: dict[str, object] = {"seconds": came.seconds, "detail": came.wrong[1][:1000] if came.wrong else None}
    if came.reply is not None:
        version = came.reply.weights_version
        told["tokens"] = protocol.written(came.reply, longest)
        told["weights_version"] = voices[turn.debater].weights_version if version is None else version
    return turn.model_copy(update=told)
