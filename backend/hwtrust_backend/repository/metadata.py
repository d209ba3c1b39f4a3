"""TUF metadata: read, checked, signed, and put into the database.

Rules:
1. Two keys are two by what they are, not by what they are called: a key id is the
   digest of its key, so that no key counts twice towards a threshold.
2. One key has one role. Only snapshot and timestamp share theirs, the online key.
3. A role has as many keys as its threshold asks for, at least.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from securesystemslib.exceptions import Error as SigningLibraryError
from securesystemslib.signer import Key, Signer, SSlibKey
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from hwtrust.errors import (
    RepositoryExpiredError,
    RepositoryKeyError,
    RepositoryMetadataError,
    RepositoryMissingError,
    RepositorySignatureError,
)
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.repository.models import TufMetadata, TufRole
from hwtrust_backend.repository.reading import newest
from hwtrust_backend.repository.signers import same_key

LIMITS: Final[Mapping[TufRole, int]] = {
    TufRole.ROOT: 64 * 1024,
    TufRole.TARGETS: 4 * 1024 * 1024,
    TufRole.SNAPSHOT: 256 * 1024,
    TufRole.TIMESTAMP: 16 * 1024,
}
"""Bytes; devices take so many and no more, other clients more (python-tuf's `UpdaterConfig`)."""
ONLINE: Final = (TufRole.SNAPSHOT, TufRole.TIMESTAMP)

_KEPT_VERSIONS: Final = 10
"""Of what changes all the time: a client may be in the middle of reading the one before."""
_PATH: Final = re.compile(r"(releases|layers)(/[A-Za-z0-9][A-Za-z0-9._+~-]*)+", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SERIALIZER: Final = JSONSerializer(compact=True)

Payload = TypeVar("Payload", Root, Targets, Snapshot, Timestamp)


def decode(content: bytes, kind: type[Payload]) -> Metadata[Payload]:
    """Read metadata of one kind.

    Raises:
        RepositoryMetadataError: it is none, of another kind, or too long for any client.
    """
    limit = LIMITS[TufRole(kind.type)]
    if len(content) > limit:
        raise RepositoryMetadataError(f"the {kind.type} metadata is longer than {limit} bytes")
    try:
        found = Metadata[kind].from_bytes(content)  # type: ignore[valid-type]
    except (DeserializationError, ValueError) as error:
        raise RepositoryMetadataError(f"this is no TUF {kind.type} metadata") from error
    if not isinstance(found.signed, kind):
        message = f"this is TUF {found.signed.type} metadata, and not {kind.type}"
        raise RepositoryMetadataError(message)
    return found


def encode(metadata: Metadata[Payload]) -> bytes:
    """Metadata as it is written and served.

    Raises:
        RepositoryMetadataError: it has become longer than clients take.
    """
    content: bytes = metadata.to_bytes(_SERIALIZER)
    role = TufRole(metadata.signed.type)
    if len(content) > LIMITS[role]:
        message = f"the {role} metadata is longer than {LIMITS[role]} bytes"
        raise RepositoryMetadataError(message)
    return content


def sign(metadata: Metadata[Payload], signers: Sequence[Signer]) -> None:
    """Add signatures.

    Raises:
        RepositoryKeyError: a key does not sign.
    """
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except (TufError, SigningLibraryError) as error:
            raise RepositoryKeyError("a key does not sign") from error


def root_in_force(session: Session) -> Root:
    """The newest root.

    Raises:
        RepositoryMissingError: none is published.
    """
    row = newest(session, TufRole.ROOT)
    if row is None:
        raise RepositoryMissingError("no root of the repository is published yet")
    return decode(row.content, Root).signed


def require_signed(root: Root, metadata: Metadata[Targets]) -> None:
    """Go on if enough of the targets keys that `root` names have signed.

    Raises:
        RepositorySignatureError: they have not.
    """
    result = root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures)
    if not result:
        message = f"the targets are signed by {len(result.signed)} of {result.threshold} keys"
        raise RepositorySignatureError(message, threshold=result.threshold)


def require_in_force(metadata: Metadata[Payload], *, now: int) -> None:
    """Go on if metadata is not expired.

    Raises:
        RepositoryExpiredError: it is.
    """
    if millis(metadata.signed.expires) <= now:
        raise RepositoryExpiredError(f"the {metadata.signed.type} metadata is expired")


def check_root(root: Root) -> None:
    """Refuse a root that this repository does not publish, however well it is signed.

    Raises:
        RepositoryMetadataError: by the rules above, or without consistent snapshots.
    """
    if not root.consistent_snapshot:
        raise RepositoryMetadataError("the root has no consistent snapshots")
    for keyid, key in root.keys.items():
        if not isinstance(key, SSlibKey) or not same_key(keyid, key):
            message = "a key of the root is no Ed25519 or P-256 key under its own id"
            raise RepositoryMetadataError(message)
    for name, role in root.roles.items():
        if len(role.keyids) < role.threshold:
            raise RepositoryMetadataError(f"the role {name} has fewer keys than its threshold")
        if not set(role.keyids) <= root.keys.keys():
            raise RepositoryMetadataError(f"the role {name} has a key that the root lacks")
    people = [root.roles[role].keyids for role in (TufRole.ROOT, TufRole.TARGETS)]
    online = [root.roles[role] for role in ONLINE]
    if online[0].keyids != online[1].keyids or len(online[0].keyids) != 1:
        raise RepositoryMetadataError("snapshot and timestamp are signed by one online key")
    every = [keyid for keyids in (*people, online[0].keyids) for keyid in keyids]
    if len(set(every)) != len(every):
        raise RepositoryMetadataError("a key of the root has two roles")


def check_targets(targets: Targets) -> None:
    """Refuse a list that says more than which files releases have.

    Raises:
        RepositoryMetadataError: it gives leave to other keys, or has what is no release's path
            or no SHA-256.
    """
    if targets.delegations is not None:
        raise RepositoryMetadataError("the list gives other keys leave to sign releases")
    for path, target in targets.targets.items():
        if not _PATH.fullmatch(path) or not _SHA256.fullmatch(target.hashes.get("sha256", "")):
            message = f"the target {path[:80]!r} is no file of a release, or has no SHA-256"
            raise RepositoryMetadataError(message)


def check_signatures(metadata: Metadata[Payload]) -> None:
    """Refuse signatures under ids that no key has here.

    Raises:
        RepositoryMetadataError: there is one.
    """
    for keyid in metadata.signatures:
        if not _SHA256.fullmatch(keyid):
            raise RepositoryMetadataError(f"a signature is by {keyid[:80]!r}, which is no key's id")


def online_key_of(root: Root) -> Key:
    """The key that signs snapshots and timestamps."""
    return root.keys[root.roles[TufRole.TIMESTAMP].keyids[0]]


def store(session: Session, metadata: Metadata[Payload], *, now: int) -> TufMetadata:
    """Put signed metadata into force; of what changes often the oldest goes."""
    return store_content(session, metadata, encode(metadata), now=now)


def store_content(
    session: Session, metadata: Metadata[Payload], content: bytes, *, now: int
) -> TufMetadata:
    """Put signed metadata into force, in the bytes that it came in."""
    role, version = TufRole(metadata.signed.type), metadata.signed.version
    row = TufMetadata(
        role=role,
        version=version,
        content=content,
        made_at=now,
        expires_at=millis(metadata.signed.expires),
    )
    session.add(row)
    session.flush()
    if role is not TufRole.ROOT:
        number = 1 if role is TufRole.TIMESTAMP else _KEPT_VERSIONS
        versions = select(TufMetadata.version).where(TufMetadata.role == role)
        kept = session.scalars(versions.order_by(TufMetadata.version.desc()).limit(number)).all()
        session.execute(
            delete(TufMetadata).where(TufMetadata.role == role, TufMetadata.version < min(kept)),
            execution_options={"synchronize_session": False},
        )
    return row


def next_version(current: int, *, now: int) -> int:
    """The version after `current`: at least the seconds of the clock (rule 4 of the package)."""
    return max(current + 1, now // SECOND)


def moment(at: int) -> datetime:
    """UTC milliseconds as TUF's library has times: whole seconds, never later."""
    return datetime.fromtimestamp(at // SECOND, UTC)


def millis(at: datetime) -> int:
    """A time of TUF's library in UTC milliseconds."""
    return int(at.timestamp()) * SECOND
