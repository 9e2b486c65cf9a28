"""Who is asked about which rollout: routers decide, before any context asks anybody for anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from preceptor.wire.runs import TeacherLedger
from preceptor_trainer.recipe import Context
from preceptor_trainer.texts import Case, Texts


def dispatch(
    cases: Sequence[Case], contexts: Mapping[str, Context], texts: Texts, step: int, vacant: Collection[str] = ()
) -> tuple[list[Case], dict[str, TeacherLedger]]:
    """The cases that somebody is asked about, each with the role; and what came of the texts that routers wanted.

    Of a rollout that a router gives to nobody or to a role that is `vacant`, or that a classifier said nothing readable
    of, the context has no opinion. Raises Unrouted where the run has no teacher for what the data holds, and what
    asking raises.
    """
    routing: dict[int, Case] = {}
    for case in cases:
        router = contexts[case.name].router
        if router is not None:
            routing[id(case)] = replace(case, asker=router, replies={})
    counts = texts.gather(list(routing.values()), step)
    sent: list[Case] = []
    for case in cases:
        routed = id(case) in routing
        role = _role(routing[id(case)]) if routed else contexts[case.name].teacher
        if role is not None and not (routed and role in vacant):
            sent.append(replace(case, role=role))
    return sent, counts


def _role(case: Case) -> str | None:
    assert not isinstance(case.asker, Context), "contexts do not route"
    return None if case.silent else case.asker.choose(case.seen())
