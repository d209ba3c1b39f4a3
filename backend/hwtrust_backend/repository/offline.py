"""Signing a proposal where the key is: no backend, no database, no network.

Rules:
1. What is signed is told, so that its signer can compare it with what was agreed. What
   could not be told, or would move a terminal's cursor over what is, is not signed.
2. Whether a signature counts is decided where the proposal is published.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from hwtrust.errors import RepositoryMetadataError
from hwtrust_backend.repository import metadata as tuf
from hwtrust_backend.repository.models import TufRole


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a proposal says, and who has signed it. `expires_at` is UTC milliseconds."""

    role: str
    version: int
    expires_at: int
    keys: dict[str, str]
    """Of a root: for each role its key ids, and how many of them have to sign."""
    targets: tuple[str, ...]
    """Of targets: path, length and SHA-256 of each."""
    signed_by: tuple[str, ...]
    strangers: tuple[str, ...]
    """Of a root: who of those has no root key in it, and counts only by the root before it."""


def sign_proposal(content: bytes, signers: Sequence[Signer]) -> tuple[bytes, Told]:
    """Add signatures to a proposal.

    Raises:
        RepositoryMetadataError: it is neither a root nor a list of targets, or a list that
            says more than which files releases have.
        RepositoryKeyError: a key does not sign.
    """
    try:
        root = tuf.decode(content, Root)
    except RepositoryMetadataError:
        targets = tuf.decode(content, Targets)
        tuf.check_targets(targets.signed)
        tuf.check_signatures(targets)
        tuf.sign(targets, signers)
        listed = [
            f"{path} {target.length} {target.hashes.get('sha256', '')}"
            for path, target in sorted(targets.signed.targets.items())
        ]
        return tuf.encode(targets), _told(targets, {}, listed)
    tuf.check_root(root.signed)
    tuf.check_signatures(root)
    tuf.sign(root, signers)
    keys = {
        role.value: f"{root.signed.roles[role].threshold} of "
        f"{' '.join(root.signed.roles[role].keyids)}"
        for role in TufRole
    }
    return tuf.encode(root), _told(root, keys, [])


def _told(
    metadata: Metadata[Root] | Metadata[Targets], keys: dict[str, str], targets: Sequence[str]
) -> Told:
    root = metadata.signed if isinstance(metadata.signed, Root) else None
    known = metadata.signatures if root is None else root.roles[TufRole.ROOT].keyids
    return Told(
        role=metadata.signed.type,
        version=metadata.signed.version,
        expires_at=tuf.millis(metadata.signed.expires),
        keys=keys,
        targets=tuple(targets),
        signed_by=tuple(metadata.signatures),
        strangers=tuple(keyid for keyid in metadata.signatures if keyid not in known),
    )
