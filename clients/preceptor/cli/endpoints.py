"""`preceptor teachers endpoints`: where a teacher answers; and how a teacher is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from preceptor.cli import output
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.client import Client
from preceptor.errors import NotFound
from preceptor.wire.teachers import Card, EndpointCreate, Replica, Teacher, TeacherKind

app = typer.Typer(help="Have a teacher answer at several URLs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The teacher's name.")]
EndpointUrl = Annotated[str, typer.Argument(metavar="ENDPOINT_URL", help="Where it answers.")]


@app.command()
def add(
    name: Name,
    endpoint_url: EndpointUrl,
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds its key, on the control plane and on every worker."),
    ] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Have a teacher answer at one more URL, for runs that are under way too. The same model must answer there."""
    create = EndpointCreate(url=endpoint_url, key_env=key_env)
    with connect(url, key_file) as client:
        show_teacher(client.teachers.add_endpoint(name, create), as_json)


@app.command()
def remove(
    name: Name,
    endpoint_url: EndpointUrl,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Have nobody ask an endpoint any more; runs that are under way go on with the others."""
    with connect(url, key_file) as client:
        show_teacher(client.teachers.remove_endpoint(name, _at(client, name, endpoint_url).id), as_json)


@app.command()
def drain(
    name: Name,
    endpoint_url: EndpointUrl,
    undo: Annotated[bool, typer.Option("--undo", help="Have runs ask it again.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Have runs leave an endpoint as soon as another one is ready; what was asked of it, it finishes."""
    with connect(url, key_file) as client:
        identifier = _at(client, name, endpoint_url).id
        change = client.teachers.undrain_endpoint if undo else client.teachers.drain_endpoint
        show_teacher(change(name, identifier), as_json)


def _at(client: Client, name: str, url: str) -> Replica:
    """The endpoint of a teacher at a URL, or with that id. Raises NotFound."""
    endpoints = client.teachers.get(name).endpoints
    for endpoint in endpoints:
        if endpoint.url.rstrip("/") == url.rstrip("/") or endpoint.id == url:
            return endpoint
    known = ", ".join(each.url for each in endpoints)
    raise NotFound(f"Teacher {name} has no endpoint {url}.", remedy=f"It answers at {known}.")


def show_teacher(teacher: Teacher, as_json: bool) -> None:
    """One teacher: what it is, where it answers, what the last probe of its first endpoint found."""
    if as_json:
        return output.show_json(teacher)
    card, probe = teacher.card, teacher.probe
    output.show_facts(
        {
            "name": teacher.name,
            "state": teacher.state.value,
            "url": teacher.url,
            "kind": None if teacher.kind is TeacherKind.PRECEPTOR else f"stock {teacher.kind} server",
            "key from": teacher.key_env,
            "model": card and f"{card.model} (weights version {card.weights_version})",
            "takes weights": "yes" if card is not None and card.moves else None,
            "engine": card and f"{card.engine}, {card.device}, {card.dtype}",
            "tokenizer": card and _tokenizer(card),
            "supports": card and (", ".join(card.supports) or "none: a text teacher"),
            "longest": card and f"{card.limits.max_tokens} tokens",
        }
    )
    output.console.print()
    _show_endpoints(teacher.endpoints)
    if probe is not None:
        output.console.print()
        rows = [(check.name, check.outcome.value, check.detail) for check in probe.checks]
        output.show_table(("check", "outcome", "detail"), rows, empty="The probe made no checks.")


def _show_endpoints(endpoints: Sequence[Replica]) -> None:
    rows: list[tuple[object, ...]] = []
    for each in endpoints:
        latency = each.probe and each.probe.latency_ms
        speed = each.probe and each.probe.tokens_per_second
        rows.append(
            (
                each.url,
                each.state.value,
                latency and f"{latency:.1f} ms",
                speed and f"{speed:,.0f} tokens/s",
                each.probe and each.probe.at,
                each.trouble or "",
            )
        )
    columns = ("endpoint", "state", "latency", "throughput", "probed", "trouble")
    output.show_table(columns, rows, empty="It has no endpoint.")


def _tokenizer(card: Card) -> str | None:
    fingerprint = card.tokenizer.fingerprint
    return fingerprint and f"{fingerprint[:19]}, {card.tokenizer.vocab_size} ids"
