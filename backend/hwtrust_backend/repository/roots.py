"""The ceremony: which keys sign what, said by those who hold the root keys.

    propose ──▶ FILE ──sign──▶ FILE ──sign──▶ … ──publish──▶ in force

Rules:
1. A root is put into force by the threshold of the root before it and by its own.
   The first one has only its own; devices trust it because it ships with them.
2. Versions of roots follow each other without a gap: devices go from one to the next.
3. A root that names other targets keys takes effect with targets that those have signed.
4. The online key of a root is this backend's present one or its next one, and no other.
5. Publishing the same file twice is publishing it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.signer import Signer, SSlibKey
from sqlalchemy.orm import Session
from tuf.api.metadata import Metadata, Role, Root, Targets

from hwtrust.errors import (
    RepositoryMetadataError,
    RepositoryResignError,
    RepositorySignatureError,
    RepositoryVersionError,
)
from hwtrust_backend.audit import Event, record
from hwtrust_backend.repository import metadata as tuf
from hwtrust_backend.repository.models import TufMetadata, TufRepository, TufRole
from hwtrust_backend.repository.online import Online
from hwtrust_backend.repository.reading import lock, newest
from hwtrust_backend.repository.signers import online_signer


@dataclass(frozen=True, slots=True, kw_only=True)
class RootChange:
    """What a proposal says anew; None or nothing leaves it as it is."""

    root_keys: Sequence[SSlibKey] = ()
    threshold: int | None = None
    targets_keys: Sequence[SSlibKey] = ()
    targets_threshold: int | None = None
    new_online_key: bool = False


def propose_root(
    session: Session, change: RootChange, *, online: Online, lifetime_ms: int, now: int
) -> bytes:
    """The next root, or the first one, for people to sign.

    Raises:
        RepositoryMetadataError: a threshold without so many keys, or a key with two roles.
    """
    row = newest(session, TufRole.ROOT)
    repository = lock(session)
    number = repository.online_key + change.new_online_key
    if row is None:
        root, number = Root(version=1), repository.online_key
    else:
        root = tuf.decode(row.content, Root).signed
        root.version += 1
    root.expires = tuf.moment(now + lifetime_ms)
    _give(root, TufRole.ROOT, change.root_keys, change.threshold)
    _give(root, TufRole.TARGETS, change.targets_keys, change.targets_threshold)
    key = online_signer(online.vault, number).public_key
    for role in tuf.ONLINE:
        _give(root, role, [key], 1)
    named = {keyid for role in root.roles.values() for keyid in role.keyids}
    root.keys = {keyid: key for keyid, key in root.keys.items() if keyid in named}
    tuf.check_root(root)
    return tuf.encode(Metadata(root))


def publish_root(
    session: Session,
    content: bytes,
    *,
    online: Online,
    signers: Sequence[Signer],
    by: str,
    now: int,
) -> TufMetadata:
    """Put a signed root into force; `signers` sign the targets where their keys have changed.

    Raises:
        RepositoryMetadataError: it is no root that this repository publishes.
        RepositoryVersionError: it does not follow the present one.
        RepositorySignatureError: too few keys of the old or of the new root have signed.
        RepositoryExpiredError: it is expired.
        RepositoryResignError: the present targets would not count under it.
    """
    proposal = tuf.decode(content, Root)
    tuf.check_root(proposal.signed)
    repository = lock(session)
    present = newest(session, TufRole.ROOT)
    if present is not None and present.content == content:
        return present
    previous = None if present is None else tuf.decode(present.content, Root).signed
    expected = 1 if previous is None else previous.version + 1
    if proposal.signed.version != expected:
        message = f"the root has version {proposal.signed.version}, and {expected} comes next"
        raise RepositoryVersionError(message)
    _require_signed(proposal, previous)
    tuf.require_in_force(proposal, now=now)
    repository.online_key = _online_number(proposal.signed, repository, online)
    row = tuf.store_content(session, proposal, content, now=now)
    _keep_targets(session, proposal.signed, online=online, signers=signers, by=by, now=now)
    online.sign(session, repository, anew=True, now=now)
    reason = f"version {proposal.signed.version}, online key {repository.online_key}"
    record(session, Event.REPOSITORY_ROOT_PUBLISHED, now=now, reason=reason, actor=by)
    return row


def _give(root: Root, role: TufRole, keys: Sequence[SSlibKey], threshold: int | None) -> None:
    present = root.roles[role]
    keyids = [key.keyid for key in keys] or list(present.keyids)
    if len(set(keyids)) != len(keyids):
        raise RepositoryMetadataError(f"a key of the role {role} is given twice")
    root.keys |= {key.keyid: key for key in keys}
    root.roles[role] = Role(keyids, threshold or present.threshold)


def _require_signed(proposal: Metadata[Root], previous: Root | None) -> None:
    result = proposal.signed.get_root_verification_result(
        previous, proposal.signed_bytes, proposal.signatures
    )
    for which, one in (("old", result.first), ("new", result.second)):
        if not one:
            signed, wanted = len(one.signed), one.threshold
            whose = "it" if previous is None else f"the {which} root"
            message = f"the root is signed by {signed} of the {wanted} keys that {whose} wants"
            raise RepositorySignatureError(message, threshold=wanted)


def _online_number(root: Root, repository: TufRepository, online: Online) -> int:
    wanted = tuf.online_key_of(root).keyid
    for number in (repository.online_key, repository.online_key + 1):
        if online_signer(online.vault, number).public_key.keyid == wanted:
            return number
    raise RepositoryMetadataError("the root's online key is not one of this backend's")


def _keep_targets(
    session: Session,
    root: Root,
    *,
    online: Online,
    signers: Sequence[Signer],
    by: str,
    now: int,
) -> None:
    """See to it that the present targets count under a new root."""
    row = newest(session, TufRole.TARGETS)
    if row is None:
        return
    present = tuf.decode(row.content, Targets)
    try:
        tuf.require_signed(root, present)
    except RepositorySignatureError as error:
        if not signers:
            message = "the published targets have too few signatures of the new root's targets keys"
            raise RepositoryResignError(message) from error
    else:
        return
    present.signed.version = tuf.next_version(present.signed.version, now=now)
    present.signed.expires = tuf.moment(now + online.settings.targets_lifetime_ms)
    present.signatures.clear()
    tuf.sign(present, signers)
    tuf.require_signed(root, present)
    tuf.store(session, present, now=now)
    reason = f"version {present.signed.version}, for root {root.version}"
    record(session, Event.TARGETS_SIGNED, now=now, reason=reason, actor=by)
