"""Signed tree heads: what the backend has promised about its audit trail.

    TreeHead ──DSSE, audit key──▶ stored, fetched, kept elsewhere

A head says: at this time the trail had so many records, and this is the root over
them. Whoever keeps one can later have it proved that the trail only grew.

Rules:
1. A head is signed only where the trail, by a consistency proof from its stored
   hashes, continues the head signed before it. Only the signed content of that
   one counts, not its row.
2. What a row says beside its envelope is never believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    AuditHeadForgedError,
    AuditHeadInconsistentError,
    AuditProofError,
    EnvelopeError,
    MalformedError,
)
from hwtrust.wire.envelope import Envelope, seal, unseal
from hwtrust_backend.audit.merkle import (
    HASH_SIZE,
    Frontier,
    check_consistency,
    consistency_proof,
)
from hwtrust_backend.audit.models import AuditHead, AuditSignedHead
from hwtrust_backend.audit.tiles import StoredNodes, tree_of
from hwtrust_backend.keys import Signer


class TreeHead(msgspec.Struct, frozen=True, kw_only=True):
    """The tree at one moment; `origin` is the backend's URL."""

    origin: str
    size: Annotated[int, Meta(ge=0)]
    root: Annotated[bytes, Meta(min_length=HASH_SIZE, max_length=HASH_SIZE)]
    utc_ms: Annotated[int, Meta(ge=0)]


def newest_head(session: Session) -> AuditSignedHead | None:
    """The signed tree head of the largest tree, as it is stored."""
    query = select(AuditSignedHead).order_by(AuditSignedHead.size.desc()).limit(1)
    return session.scalars(query).one_or_none()


def sign_head(session: Session, signer: Signer, *, origin: str, now: int) -> AuditSignedHead | None:
    """Sign the tree as it stands, if it has grown since the newest head; gives the newest head.

    Nothing, where the trail is empty. Any number of replicas may call it at once.

    Raises:
        AuditHeadInconsistentError: the trail does not continue the newest head.
        AuditHeadForgedError: the newest head is not signed by this key.
        AuditError: what the proof is made of was changed.
    """
    newest, tree = newest_head(session), tree_of(session)
    if tree.size == 0 or (newest is not None and newest.size == tree.size):
        return newest
    if newest is not None:
        old = open_head(envelope_of(newest), key=signer.public_key)
        check_continues(session, old, tree)
    head = TreeHead(origin=origin, size=tree.size, root=tree.root(), utc_ms=now)
    envelope = seal(head, sign=signer.sign)
    # In line with the other replicas: one of them may have signed this tree meanwhile.
    session.execute(select(AuditHead.id).where(AuditHead.id == 1).with_for_update())
    if session.get(AuditSignedHead, head.size, populate_existing=True) is None:
        session.add(
            AuditSignedHead(
                size=head.size,
                root=head.root,
                utc_ms=now,
                envelope=msgspec.json.encode(envelope),
            )
        )
        session.flush()
    return newest_head(session)


def open_head(envelope: Envelope, *, key: ec.EllipticCurvePublicKey) -> TreeHead:
    """What a signed tree head says.

    Raises:
        AuditHeadForgedError: it is not signed by `key`, or is no tree head.
    """
    try:
        return unseal(envelope, TreeHead, key=key)
    except (EnvelopeError, MalformedError) as error:
        message = f"a tree head is not signed by the audit key: {error.message}"
        raise AuditHeadForgedError(message) from error


def open_heads(envelopes: Sequence[Envelope], *, key: ec.EllipticCurvePublicKey) -> list[TreeHead]:
    """What signed tree heads say, smallest first.

    Raises:
        AuditHeadForgedError: one is not signed by `key`, or is no tree head.
    """
    return sorted((open_head(item, key=key) for item in envelopes), key=lambda head: head.size)


def decode_head(content: bytes) -> Envelope:
    """A tree head from outside, not yet verified.

    Raises:
        AuditHeadForgedError: it is no envelope.
    """
    try:
        return msgspec.json.decode(content, type=Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise AuditHeadForgedError("a tree head is no signed envelope") from error


def envelope_of(head: AuditSignedHead) -> Envelope:
    """The envelope of a stored head, not yet verified.

    Raises:
        AuditHeadForgedError: it is none.
    """
    return decode_head(head.envelope)


class Promises:
    """Signed heads in the order of their sizes, each compared when a tree reaches it."""

    def __init__(self, *heads: Iterable[TreeHead]) -> None:
        self._sources = [iter(source) for source in heads]
        self._next = [next(source, None) for source in self._sources]
        self._good = 0
        self.count = 0
        """How many were compared."""
        self.largest = 0
        """The size of the largest of them."""

    def compare(self, tree: Frontier) -> None:
        """Compare the heads that were signed when the tree had its present size.

        Raises:
            AuditHeadInconsistentError: the tree does not fit one.
        """
        for at, source in enumerate(self._sources):
            while (head := self._next[at]) is not None and head.size <= tree.size:
                if (head.size, head.root) != (tree.size, tree.root()):
                    raise self._inconsistent(head)
                self.count, self.largest = self.count + 1, head.size
                self._next[at] = next(source, None)
        if self.largest == tree.size:
            self._good = tree.size

    def finish(self, tree: Frontier) -> None:
        """No head may be of a larger tree than there is.

        Raises:
            AuditHeadInconsistentError: one is.
        """
        for head in self._next:
            if head is not None:
                raise cut_short(head, tree.size)

    def _inconsistent(self, head: TreeHead) -> AuditHeadInconsistentError:
        first, last = self._good + 1, head.size
        message = (
            f"the audit trail does not fit its signed head of {last} records: "
            f"one of the records {first} to {last} was changed or dropped"
        )
        return AuditHeadInconsistentError(message, record=first, last=last)


def cut_short(head: TreeHead, size: int) -> AuditHeadInconsistentError:
    """The error of a trail that has fewer records than a signed head of it."""
    message = (
        f"the audit trail ends at record {size}, and a tree head of {head.size} records was signed"
    )
    return AuditHeadInconsistentError(message, record=size + 1, last=head.size)


def check_continues(session: Session, old: TreeHead, tree: Frontier) -> None:
    """Refuse a trail, whose tree is `tree` now, that does not begin as a head of it says.

    Raises:
        AuditHeadInconsistentError: it is shorter, or its beginning was changed.
        AuditError: what the proof is made of was changed.
    """
    if old.size > tree.size:
        raise cut_short(old, tree.size)
    try:
        proof = consistency_proof(StoredNodes(session, tree.size), old.size, tree.size)
        check_consistency(
            old=old.size, old_root=old.root, size=tree.size, root=tree.root(), proof=proof
        )
    except AuditProofError as error:
        message = f"the audit trail does not continue its signed head of {old.size} records"
        raise AuditHeadInconsistentError(message, record=old.size) from error
