"""`preceptor teacher load-weights`: another version of its weights for a teacher that runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from preceptor.cli import output
from preceptor.endpoint import TeacherClient
from preceptor.errors import Invalid
from preceptor.fingerprint import tokenizer_card
from preceptor.opening import key_of
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.teachers import Card
from preceptor.wire.weights import WeightsKind

ROLE = "teacher"


def load_weights(
    weights: Annotated[
        Path, typer.Argument(help="A model's folder, a LoRA adapter's folder as peft writes it, or a safetensors file.")
    ],
    urls: Annotated[
        list[str], typer.Argument(metavar="TEACHER_URL...", help="Where it answers; all of its endpoints, if several.")
    ],
    key_env: Annotated[
        str, typer.Option(help="Environment variable that holds its key; NAME_FILE may name a file instead.")
    ] = "PRECEPTOR_TEACHER_KEY",
    base: Annotated[
        Path | None, typer.Option(help="Of an adapter: the model that it is for, sent first where it is needed.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Of an adapter's file: what its product is multiplied with.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Load other weights into a teacher that was started with --takes-weights.

    Requests that have begun are finished by the version before.
    """
    # Only here: a pool is more than the other commands need.
    from preceptor.pool import TeacherPool

    first, *others = (ReplicaAddress(url=url, key_env=key_env) for url in urls)
    with TeacherClient(first.url, key_of("the teacher", key_env)) as client:
        card = client.card()
    _check_tokenizer(weights, card)
    kind = None if weights.is_dir() or scale is None else WeightsKind.LORA
    endpoint = TeacherEndpoint(name=card.teacher, url=first.url, key_env=key_env, card=card, replicas=tuple(others))
    with tempfile.TemporaryDirectory() as folder, TeacherPool({ROLE: endpoint}, Path(folder)) as pool:
        version = pool.publish(ROLE, weights, kind, scale, base=base)
        sent = pool.take_ledger()[ROLE].weights_bytes
    if as_json:
        return output.show_json({"teacher": card.teacher, "weights_version": version, "bytes": sent})
    output.console.print(f"{card.teacher} answers with weights version {version} now ({sent:,} bytes sent).")


def _check_tokenizer(weights: Path, card: Card) -> None:
    """Weights alone do not say which tokens they are for; a model's folder does."""
    if not (weights / "tokenizer.json").is_file():
        return
    mine = tokenizer_card(weights)
    if mine.fingerprint != card.tokenizer.fingerprint:
        raise Invalid(
            f"weights: {weights} has another tokenizer than the teacher {card.teacher}, which serves {card.model}.",
            field="weights",
            remedy="Load weights of the model that it serves.",
        )
