"""One text from a teacher's endpoints: asked for where somebody is free, again where one fails, counted."""

from __future__ import annotations

import time
from collections.abc import Callable

from preceptor.adapters import Endpoint, TextTeacher
from preceptor.endpoint import Count
from preceptor.errors import Invalid, TeacherUnavailable
from preceptor.persist import persist
from preceptor.replica import Replica
from preceptor.replicas import Replicas
from preceptor.routing import Want
from preceptor.wire.chat import ChatRequest, Reply, reply_of
from preceptor.wire.runs import OnFailure

PATH = "/v1/chat/completions"


def chat(
    client: TextTeacher, request: ChatRequest, model: str, *, timeout: float | None = None, count: Count | None = None
) -> Reply:
    """The next message, by one attempt. Raises Corrupt for an answer of no message."""
    body = request.body(model)
    try:
        answer = client.complete(body, PATH, timeout=timeout, count=count)
    except Invalid as error:
        if "max_completion_tokens" not in error.problem.detail:
            raise
        body["max_completion_tokens"] = body.pop("max_tokens")  # the newer name, which some models insist on
        answer = client.complete(body, PATH, timeout=timeout, count=count)
    return reply_of(answer)


def ask_for_text(
    replicas: Replicas, fallback: Replicas | None, request: ChatRequest, on_failure: OnFailure, *, patience: float
) -> Reply:
    """The reply of whichever endpoint gives one. `patience`: seconds for which `wait` goes on calling.

    Where nobody answers within a call's deadline, `on_failure` decides, as for scores: `wait` goes on, `fallback` asks
    the other teacher, `drop` raises TeacherUnavailable. Raises what `persist` raises.
    """
    if on_failure == "wait":
        return persist(replicas, _attempt(replicas, request), patience=patience, want=_want(request))
    try:
        return _within_deadline(replicas, request)
    except TeacherUnavailable:
        if on_failure == "drop" or fallback is None:
            raise
        reply = _within_deadline(fallback, request)
        replicas.tally.count(fallbacks=1)
        return reply


def _within_deadline(replicas: Replicas, request: ChatRequest) -> Reply:
    patience, hasty = replicas.means.deadline, replicas.down
    return persist(replicas, _attempt(replicas, request), patience=patience, want=_want(request), hasty=hasty)


def _want(request: ChatRequest) -> Want:
    # Which endpoint is least busy is all that matters here, and a reply costs about its length.
    return Want(tokens=request.max_tokens)


def _attempt(replicas: Replicas, request: ChatRequest) -> Callable[[Replica, Endpoint, float], Reply]:
    tally = replicas.tally

    def attempt(replica: Replica, client: Endpoint, left: float) -> Reply:
        card = replica.card
        if not isinstance(client, TextTeacher) or card is None or not card.generates:
            raise Invalid("It scores and writes no text.", field="model", remedy="Name a teacher that writes.")
        tally.sent_to(replica.url)
        began = time.monotonic()
        try:
            return chat(client, request, card.model, timeout=left, count=tally.count)
        finally:
            tally.count(seconds=time.monotonic() - began)

    return attempt
