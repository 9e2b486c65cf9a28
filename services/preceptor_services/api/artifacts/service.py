"""Artifacts: announced, filled, opened, found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound, TooLarge
from preceptor.wire import artifacts as wire
from preceptor.wire.common import Page
from preceptor_services.api import cursors
from preceptor_services.api.artifacts.blobs import Blobs
from preceptor_services.api.artifacts.datasets import open_dataset
from preceptor_services.api.artifacts.models import open_model
from preceptor_services.db import models
from preceptor_services.db.session import Database, one_at_a_time

_CONTENTS = "contents"
"""What announcing an artifact and forgetting one are alone with."""


def shown(artifact: models.Artifact) -> wire.Artifact:
    """An artifact as it travels."""
    return wire.Artifact(
        id=artifact.id,
        manifest=artifact.manifest,
        state=wire.ArtifactState(artifact.state),
        size=artifact.size,
        facts=artifact.facts,
        created_at=artifact.created_at,
    )


def get(session: Session, artifact_id: str) -> models.Artifact:
    """One artifact. Raises NotFound."""
    artifact = session.get(models.Artifact, artifact_id)
    if artifact is None:
        raise NotFound(f"There is no artifact {artifact_id[:80]!r}.", remedy="Push it, or list what there is.")
    return artifact


def ready_facts(session: Session, artifact_id: str, kind: wire.ArtifactKind, field: str) -> wire.Facts:
    """What opening an artifact showed. Raises Invalid, naming the field, where it is not one of this kind and ready."""
    artifact = session.get(models.Artifact, artifact_id)
    if artifact is None:
        raise Invalid(f"{field}: there is no artifact {artifact_id}.", field=field, remedy="Push it first.")
    if artifact.kind != kind.value:
        raise Invalid(
            f"{field}: {artifact_id} is a {artifact.kind}, not a {kind.value}.",
            field=field,
            remedy=f"Name a {kind.value}.",
        )
    if artifact.state != wire.ArtifactState.READY.value or artifact.facts is None:
        raise Invalid(
            f"{field}: {artifact_id} has not been uploaded completely.",
            field=field,
            remedy="Push it again; it goes on.",
        )
    return artifact.facts


def announce(session: Session, blobs: Blobs, manifest: wire.Manifest, at: datetime, limit: int) -> wire.Upload:
    """Say what an artifact consists of, and learn what is still to be sent. Announcing it again changes nothing."""
    if manifest.size > limit:
        raise TooLarge(f"The artifact has {manifest.size} bytes; the limit is {limit}.", remedy="Push less at once.")
    one_at_a_time(session, _CONTENTS)
    artifact = session.get(models.Artifact, manifest.id)
    if artifact is None:
        contents = {(file.sha256, file.size) for file in manifest.files}
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        rows = [{"sha256": sha256, "size": size, "created_at": at} for sha256, size in sorted(contents)]
        session.execute(insert(models.Blob).on_conflict_do_nothing(), rows)
        artifact = models.Artifact(
            id=manifest.id,
            kind=manifest.kind.value,
            manifest=manifest,
            size=manifest.size,
            state=wire.ArtifactState.UPLOADING.value,
            created_at=at,
        )
        session.add(artifact)
    return wire.Upload(artifact=shown(artifact), missing=missing(blobs, artifact.manifest))


def missing(blobs: Blobs, manifest: wire.Manifest) -> tuple[wire.BlobState, ...]:
    """The contents of a manifest that are not whole, in its order."""
    found: dict[tuple[str, int], wire.BlobState] = {}
    for file in manifest.files:
        if (file.sha256, file.size) not in found and not blobs.has(file.sha256, file.size):
            offset, busy = blobs.offset(file.sha256, file.size), blobs.busy(file.sha256, file.size)
            found[file.sha256, file.size] = wire.BlobState(sha256=file.sha256, size=file.size, offset=offset, busy=busy)
    return tuple(found.values())


def complete(database: Database, blobs: Blobs, artifact_id: str) -> wire.Artifact:
    """Open what has arrived and declare it ready. Raises Conflict while something is missing, Invalid where it cannot
    be opened as what it says it is.

    Its own units of work: opening takes as long as the files are large, and must hold no transaction meanwhile.
    """
    with database.unit(writes=False) as unit:
        artifact = shown(get(unit.session, artifact_id))
    if artifact.state is wire.ArtifactState.READY:
        return artifact
    if absent := missing(blobs, artifact.manifest):
        raise Conflict(
            f"{len(absent)} of its contents are not here yet, {absent[0].sha256} among them.",
            remedy="Send them, then complete it.",
        )
    files = blobs.files(artifact.manifest)
    match artifact.manifest.kind:
        case wire.ArtifactKind.MODEL:
            facts: wire.Facts = open_model(files)
        case wire.ArtifactKind.DATASET:
            facts = open_dataset(files)
        case wire.ArtifactKind.CHECKPOINT:
            facts = wire.CheckpointFacts()
    with database.unit(writes=True) as unit:
        row = get(unit.session, artifact_id)
        row.facts, row.state = facts, wire.ArtifactState.READY.value
        return shown(row)


def forget(database: Database, blobs: Blobs, artifact_ids: Sequence[str]) -> None:
    """Delete artifacts that no run names any more, and the contents that no other artifact shares."""
    with database.unit(writes=True) as unit:
        session, runs = unit.session, models.Run
        one_at_a_time(session, _CONTENTS)
        for artifact_id in artifact_ids:
            named = (runs.checkpoint_artifact == artifact_id) | (runs.student == artifact_id)
            artifact = session.get(models.Artifact, artifact_id)
            if artifact is None or session.scalar(select(runs.id).where(named).limit(1)) is not None:
                continue
            session.delete(artifact)
            session.flush()
            contents = {(file.sha256, file.size) for file in artifact.manifest.files}
            for manifest in session.scalars(select(models.Artifact.manifest)):
                contents -= {(file.sha256, file.size) for file in manifest.files}
            for sha256, size in sorted(contents):
                session.execute(delete(models.Blob).where(models.Blob.sha256 == sha256, models.Blob.size == size))
                unit.after_commit(partial(_drop, database, blobs, sha256, size))


def _drop(database: Database, blobs: Blobs, sha256: str, size: int) -> None:
    """Delete a content, unless somebody has announced it since its last artifact was forgotten: that one was told that
    it is here."""
    with database.unit(writes=True) as unit:
        one_at_a_time(unit.session, _CONTENTS)
        if size not in blob_size(unit.session, sha256) and blobs.has(sha256, size):
            blobs.drop(sha256)


def page(session: Session, kind: wire.ArtifactKind | None, limit: int, cursor: str | None) -> Page[wire.Artifact]:
    """Artifacts, newest first."""
    table = models.Artifact
    query = cursors.newest(select(table), table, limit, cursor)
    if kind is not None:
        query = query.where(table.kind == kind.value)
    found = list(session.scalars(query))
    return Page(items=tuple(map(shown, found[:limit])), next_cursor=cursors.following(found, limit))


def blob_size(session: Session, sha256: str) -> tuple[int, ...]:
    """The sizes that manifests state for a hash. Empty: nobody announced it."""
    return tuple(session.scalars(select(models.Blob.size).where(models.Blob.sha256 == sha256)))
