"""Publishing releases and revoking them: the targets, signed by the release engineer.

    bundle ──▶ files in place ──▶ one transaction: targets, snapshot, timestamp, records

Rules:
1. A target's path never gets other content while it is published.
2. A release is published with every file in place, and revoked with every file that
   no other release needs. The files themselves stay: what is not listed is not served.
3. The signature is by the targets key, over the list as it is then: of two who publish
   at once the second adds to what the first has published.
4. A list that was signed elsewhere counts only if it is the one that would be signed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Signer
from sqlalchemy.orm import Session
from tuf.api.metadata import Metadata, TargetFile, Targets

from hwtrust.errors import (
    ReleaseMissingError,
    RepositoryBundleError,
    RepositoryConflictError,
    RepositoryVersionError,
)
from hwtrust.wire.release import decode_manifest, release_target
from hwtrust_backend.audit import Event, record
from hwtrust_backend.db import RULES, count_up
from hwtrust_backend.repository import metadata as tuf
from hwtrust_backend.repository.blobs import Blob, Blobs
from hwtrust_backend.repository.bundle import Bundle
from hwtrust_backend.repository.models import PublishedRelease, TufRole
from hwtrust_backend.repository.online import Online
from hwtrust_backend.repository.reading import lock, newest, published_releases


@dataclass(frozen=True, slots=True)
class Signing:
    """By whom the list of targets is signed: keys that are here, or a list signed elsewhere."""

    signers: Sequence[Signer] = ()
    signed: bytes = b""


def propose_publication(session: Session, bundle: Bundle, *, online: Online, now: int) -> bytes:
    """The list of targets with a release added, for people to sign elsewhere.

    Raises:
        RepositoryMissingError: no root is published.
        RepositoryConflictError: a path is taken by other content.
    """
    tuf.root_in_force(session)
    listed = _with(_listed(session), bundle)
    return tuf.encode(_next(session, listed, online=online, now=now))


def propose_revocation(session: Session, name: str, *, online: Online, now: int) -> bytes:
    """The list of targets without a release, for people to sign elsewhere.

    Raises:
        ReleaseMissingError: it is not published.
    """
    listed = _without(session, _listed(session), name)
    return tuf.encode(_next(session, listed, online=online, now=now))


def publish_release(
    session: Session,
    bundle: Bundle,
    *,
    blobs: Blobs,
    online: Online,
    signing: Signing,
    by: str,
    now: int,
) -> PublishedRelease:
    """Publish a release whose files are in place. The same one again changes nothing.

    Raises:
        RepositoryMissingError: no root is published.
        RepositoryConflictError: a path is taken by other content.
        RepositorySignatureError: too few targets keys have signed.
        RepositoryVersionError: what was signed elsewhere is not what would be signed here.
        RepositoryBundleError: a file is gone from its place.
    """
    repository = lock(session)
    row = session.get(PublishedRelease, bundle.manifest.name)
    present = _listed(session)
    listed = _with(present, bundle)
    for path, blob in bundle.targets.items():
        if not blobs.has(blob):
            raise RepositoryBundleError(f"the file of {path} is not in its place")
    if row is not None and row.revoked_at is None and listed == present:
        return row
    _put(session, listed, online=online, signing=signing, now=now)
    if row is None:
        row = PublishedRelease(
            name=bundle.manifest.name,
            manifest=bundle.content,
            published_at=now,
            revoked_at=None,
        )
        session.add(row)
    else:
        row.manifest, row.published_at, row.revoked_at = bundle.content, now, None
    online.sign(session, repository, anew=True, now=now)
    record(session, Event.RELEASE_PUBLISHED, now=now, reason=row.name, actor=by)
    return row


def revoke_release(
    session: Session, name: str, *, online: Online, signing: Signing, by: str, now: int
) -> PublishedRelease:
    """Take a release out of the list, and the files that no other release needs.

    Raises:
        ReleaseMissingError: it is not published.
        RepositorySignatureError: too few targets keys have signed.
        RepositoryVersionError: what was signed elsewhere is not what would be signed here.
    """
    repository = lock(session)
    row = _published(session, name)
    listed = _without(session, _listed(session), name)
    _put(session, listed, online=online, signing=signing, now=now)
    row.revoked_at = now
    online.sign(session, repository, anew=True, now=now)
    record(session, Event.RELEASE_REVOKED, now=now, reason=name, actor=by)
    return row


def _put(
    session: Session,
    listed: Mapping[str, TargetFile],
    *,
    online: Online,
    signing: Signing,
    now: int,
) -> None:
    root = tuf.root_in_force(session)
    made = _next(session, listed, online=online, now=now)
    if signing.signed:
        given = tuf.decode(signing.signed, Targets)
        if given.signed.targets != made.signed.targets or given.signed.delegations is not None:
            raise RepositoryVersionError("the signed list is not the one that comes next")
        present = newest(session, TufRole.TARGETS)
        if present is not None and given.signed.version <= present.version:
            raise RepositoryVersionError("a list as new as the signed one is published already")
        made = given
    tuf.sign(made, signing.signers)
    tuf.require_signed(root, made)
    tuf.require_in_force(made, now=now)
    tuf.store(session, made, now=now)
    # Which release devices are ordered to is kept with the rules of their groups.
    count_up(session, RULES)


def _next(
    session: Session, listed: Mapping[str, TargetFile], *, online: Online, now: int
) -> Metadata[Targets]:
    row = newest(session, TufRole.TARGETS)
    return Metadata(
        Targets(
            version=tuf.next_version(0 if row is None else row.version, now=now),
            expires=tuf.moment(now + online.settings.targets_lifetime_ms),
            targets=dict(listed),
        )
    )


def _listed(session: Session) -> dict[str, TargetFile]:
    row = newest(session, TufRole.TARGETS)
    return {} if row is None else dict(tuf.decode(row.content, Targets).signed.targets)


def _with(listed: Mapping[str, TargetFile], bundle: Bundle) -> dict[str, TargetFile]:
    added = {path: _target(path, blob) for path, blob in bundle.targets.items()}
    for path, target in added.items():
        if path in listed and listed[path] != target:
            message = f"{path} is published with other content"
            raise RepositoryConflictError(message, target=path)
    return {**listed, **added}


def _without(
    session: Session, listed: Mapping[str, TargetFile], name: str
) -> dict[str, TargetFile]:
    row = _published(session, name)
    others = [
        decode_manifest(other.manifest)
        for other in published_releases(session)
        if other.revoked_at is None and other.name != name
    ]
    needed = {layer.target for manifest in others for layer in manifest.layers}
    gone = {layer.target for layer in decode_manifest(row.manifest).layers} - needed
    gone.add(release_target(name))
    return {path: target for path, target in listed.items() if path not in gone}


def _published(session: Session, name: str) -> PublishedRelease:
    row = session.get(PublishedRelease, name)
    if row is None or row.revoked_at is not None:
        raise ReleaseMissingError(f"the release {name!r} is not published", release=name[:200])
    return row


def _target(path: str, blob: Blob) -> TargetFile:
    return TargetFile(length=blob.length, hashes={"sha256": blob.sha256}, path=path)
