"""Groups and policies: adding versions, putting one into force, and what is in force.

Rules:
1. A version of a policy never changes. The one activated last is in force.
2. A group without a policy in force is held to nothing that anybody meets.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hwtrust.errors import PolicyUnknownError
from hwtrust.wire.envelope import Envelope
from hwtrust_backend.audit import Event, record
from hwtrust_backend.db import RULES, Kept, count_up
from hwtrust_backend.policies.document import Policy, read_policy
from hwtrust_backend.policies.models import DEFAULT_GROUP, ActivePolicy, Group, StoredPolicy
from hwtrust_backend.policies.signing import Signers, check_signature, require_signed

NOTHING: Final = read_policy("")
"""What a group is held to whose policy says nothing: every device fails."""


def add_policy(
    session: Session, name: str, document: str, *, by: str, note: str = "", now: int
) -> StoredPolicy:
    """Store a document as the next version of a policy; it is not in force by that.

    The same document again gives the version that it has.

    Raises:
        PolicyDocumentError: it is no policy.
    """
    read_policy(document)
    # Who adds at the same time waits here, and gets the next number.
    count_up(session, RULES)
    digest = hashlib.sha256(document.encode()).digest()
    same = session.scalars(
        select(StoredPolicy).where(StoredPolicy.name == name, StoredPolicy.digest == digest)
    ).first()
    if same is not None:
        return same
    newest = session.scalar(select(func.max(StoredPolicy.version)).where(StoredPolicy.name == name))
    stored = StoredPolicy(
        name=name,
        version=(newest or 0) + 1,
        document=document,
        digest=digest,
        author=by,
        note=note,
        added_at=now,
        signature=None,
        signer="",
    )
    session.add(stored)
    session.flush()
    reason = f"{name} version {stored.version}, sha256 {digest.hex()}"
    record(session, Event.POLICY_ADDED, now=now, reason=reason, actor=by)
    return stored


def add_signature(
    session: Session,
    name: str,
    version: int,
    envelope: Envelope,
    *,
    signers: Signers,
    by: str,
    now: int,
) -> str:
    """Keep a signer's signature with a version; gives the signer's name.

    Raises:
        PolicyUnknownError: there is no such version.
        PolicySignatureError: it is by none of the signers, or over another document.
    """
    stored = policy_version(session, name, version)
    stored.signer = check_signature(stored, envelope, signers=signers)
    stored.signature = msgspec.json.encode(envelope)
    reason = f"{name} version {version}, by {stored.signer}"
    record(session, Event.POLICY_SIGNED, now=now, reason=reason, actor=by)
    return stored.signer


def activate_policy(
    session: Session, name: str, version: int, *, signers: Signers, by: str, now: int
) -> ActivePolicy:
    """Put a version of a policy into force, for every group that has the policy.

    Raises:
        PolicyUnknownError: there is no such version.
        PolicySignatureError: there are signers, and none has signed it.
    """
    stored = policy_version(session, name, version)
    require_signed(stored, signers=signers)
    count_up(session, RULES)
    active = session.get(ActivePolicy, name, with_for_update=True, populate_existing=True)
    before = 0 if active is None else active.version
    if active is None:
        active = ActivePolicy(name=name, version=version, activated_at=now, activated_by=by)
        session.add(active)
    active.version, active.activated_at, active.activated_by = version, now, by
    session.flush()
    reason = f"{name} version {version} after {before}, sha256 {stored.digest.hex()}"
    record(session, Event.POLICY_ACTIVATED, now=now, reason=reason, actor=by)
    return active


def first_policy(session: Session, document: str, *, now: int) -> None:
    """Make the group `default` and put its policy into force, unless there is one."""
    if session.get(Group, DEFAULT_GROUP) is not None:
        return
    by = "init"
    add_group(session, DEFAULT_GROUP, policy=DEFAULT_GROUP, label="", by=by, now=now)
    stored = add_policy(session, DEFAULT_GROUP, document, by=by, now=now)
    # Whoever installs the backend stands for its first policy.
    activate_policy(session, DEFAULT_GROUP, stored.version, signers={}, by=by, now=now)


def policy_version(session: Session, name: str, version: int | None) -> StoredPolicy:
    """A version of a policy; None: the one in force.

    Raises:
        PolicyUnknownError: there is none.
    """
    if version is None:
        active = session.get(ActivePolicy, name)
        version = 0 if active is None else active.version
    stored = session.get(StoredPolicy, (name, version))
    if stored is None:
        raise PolicyUnknownError(f"there is no version {version} of the policy {name!r}")
    return stored


def group_of(session: Session, name: str) -> Group:
    """The group of that name.

    Raises:
        PolicyUnknownError: there is none.
    """
    group = session.get(Group, name)
    if group is None:
        raise PolicyUnknownError(f"there is no group {name!r}", group=name[:200])
    return group


def add_group(
    session: Session, name: str, *, policy: str, label: str | None, by: str, now: int
) -> Group:
    """Make a group, or change its policy and label; without a label it keeps the one it has."""
    # Who sets it at the same time waits here, and what that one has set is seen.
    count_up(session, RULES)
    group = session.get(Group, name, populate_existing=True)
    if group is None:
        group = Group(name=name, label="", policy=policy, created_at=now)
        session.add(group)
    group.policy, group.label = policy, group.label if label is None else label
    record(session, Event.GROUP_SET, now=now, reason=f"{name}: policy {policy}", actor=by)
    return group


def list_groups(session: Session) -> list[Group]:
    """Every group, by name."""
    return list(session.scalars(select(Group).order_by(Group.name)))


def list_policies(session: Session, name: str | None = None) -> list[StoredPolicy]:
    """Every version of every policy, or of one; newest first."""
    query = select(StoredPolicy).order_by(StoredPolicy.name, StoredPolicy.version.desc())
    if name is not None:
        query = query.where(StoredPolicy.name == name)
    return list(session.scalars(query))


def versions_in_force(session: Session) -> dict[str, ActivePolicy]:
    """Which version of each policy is in force, since when and by whom, by its name."""
    return {row.name: row for row in session.scalars(select(ActivePolicy))}


def policy_of(session: Session, group: str) -> Policy:
    """What the devices of a group are held to; where nothing is in force, `NOTHING`."""
    return _POLICIES.get(session).get(group, NOTHING)


def _read_all(session: Session) -> dict[str, Policy]:
    query = (
        select(Group.name, StoredPolicy.document)
        .join(ActivePolicy, ActivePolicy.name == Group.policy)
        .join(
            StoredPolicy,
            (StoredPolicy.name == ActivePolicy.name)
            & (StoredPolicy.version == ActivePolicy.version),
        )
    )
    return {name: read_policy(document) for name, document in session.execute(query)}


_POLICIES: Final = Kept(RULES, _read_all)
