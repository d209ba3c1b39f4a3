"""Groups and policies: what devices are held to.

A principal that is limited to groups sees those, and the policies that they are
held to; only an administrator of all devices changes any.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import PolicyUnknownError
from hwtrust.wire.envelope import Envelope
from hwtrust_backend import policies
from hwtrust_backend.admin.fields import label_of, name_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.appraisal.dry_run import DryRun, dry_run
from hwtrust_backend.config import Settings
from hwtrust_backend.db import RULES, count_up
from hwtrust_backend.enclaves import enclave_trust
from hwtrust_backend.enrolment import rules_of
from hwtrust_backend.policies import ActivePolicy, Group, StoredPolicy
from hwtrust_backend.publishing import policy_changed


class GroupReport(msgspec.Struct, frozen=True, kw_only=True):
    """A group of devices. Times are UTC milliseconds."""

    name: str
    label: str
    policy: str
    policy_version: int | None
    """The version in force; absent: none, and every device of the group fails."""
    created_at: int


class PolicyReport(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a policy. Times are UTC milliseconds."""

    name: str
    version: int
    active: bool
    sha256: str
    author: str
    note: str
    added_at: int
    signer: str
    """Who has signed it; empty: nobody."""
    activated_at: int | None
    """Since when it is in force; None: it is not."""
    activated_by: str


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a policy with its document."""

    report: PolicyReport
    document: str
    """TOML, as it was given."""


def groups(session: Session, *, by: Principal) -> tuple[GroupReport, ...]:
    """Every group that `by` sees, by name."""
    by.require(Role.VIEWER)
    in_force = policies.versions_in_force(session)
    rows = policies.list_groups(session)
    return tuple(_group(row, in_force) for row in rows if by.sees(row.name))


def group(session: Session, name: str, *, by: Principal) -> GroupReport:
    """One group.

    Raises:
        PolicyUnknownError: there is none.
    """
    by.require(Role.VIEWER)
    found = policies.group_of(session, name if by.sees(name) else "")
    return _group(found, policies.versions_in_force(session))


def set_group(
    session: Session, name: str, *, policy: str, label: str | None = None, by: Principal, now: int
) -> GroupReport:
    """Make a group, or change its policy and label; without a label it keeps the one it has.

    Raises:
        PolicyUnknownError: there is no such policy.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    if not policies.list_policies(session, policy):
        raise PolicyUnknownError(f"there is no policy {policy[:100]!r}")
    count_up(session, RULES)
    known = session.get(Group, name) is not None
    before = _accepted(session, name)
    made = policies.add_group(
        session,
        name_of(name, "group"),
        policy=policy,
        label=None if label is None else label_of(label),
        by=by.name,
        now=now,
    )
    session.flush()
    if known:
        policy_changed(session, name, before=before, by=by.name, now=now)
    return _group(made, policies.versions_in_force(session))


def policy_versions(
    session: Session, name: str | None = None, *, by: Principal
) -> tuple[PolicyReport, ...]:
    """Every version of every policy that `by` sees, or of one; newest first.

    Raises:
        PolicyUnknownError: there is no policy of that name.
    """
    by.require(Role.VIEWER)
    seen, in_force = _seen(session, by), policies.versions_in_force(session)
    rows = [
        row for row in policies.list_policies(session, name) if seen is None or row.name in seen
    ]
    if name is not None and not rows:
        raise PolicyUnknownError(f"there is no policy {name[:100]!r}")
    return tuple(_policy(row, in_force) for row in rows)


def policy(session: Session, name: str, version: int | None, *, by: Principal) -> PolicyDocument:
    """A version of a policy; None: the one in force.

    Raises:
        PolicyUnknownError: there is none.
    """
    by.require(Role.VIEWER)
    seen = _seen(session, by)
    if seen is not None and name not in seen:
        raise PolicyUnknownError(f"there is no policy {name[:100]!r}")
    stored = policies.policy_version(session, name, version)
    report = _policy(stored, policies.versions_in_force(session))
    return PolicyDocument(report=report, document=stored.document)


def add_policy(
    session: Session,
    name: str,
    document: str,
    *,
    note: str = "",
    signature: Envelope | None = None,
    settings: Settings,
    by: Principal,
    now: int,
) -> PolicyReport:
    """Store a document as the next version of a policy; it is not in force by that.

    Raises:
        PolicyDocumentError: it is no policy.
        PolicySignatureError: the signature is by none of the configured signers.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    stored = policies.add_policy(
        session, name_of(name, "policy"), document, by=by.name, note=label_of(note), now=now
    )
    if signature is not None:
        policies.add_signature(
            session,
            name,
            stored.version,
            signature,
            signers=policies.load_signers(settings.policy_signers),
            by=by.name,
            now=now,
        )
    return _policy(stored, policies.versions_in_force(session))


def activate_policy(
    session: Session, name: str, version: int, *, settings: Settings, by: Principal, now: int
) -> PolicyReport:
    """Put a version of a policy into force, for every group that has the policy.

    Where it accepts another release, and says so, devices get new roots, bit by bit.

    Raises:
        PolicyUnknownError: there is no such version.
        PolicySignatureError: there are signers, and none has signed it.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    signers = policies.load_signers(settings.policy_signers)
    # In line with whoever moves a group: what is read from here on stays true.
    count_up(session, RULES)
    held = [row.name for row in policies.list_groups(session) if row.policy == name]
    before = {group: _accepted(session, group) for group in held}
    policies.activate_policy(session, name, version, signers=signers, by=by.name, now=now)
    session.flush()
    for group, releases in before.items():
        policy_changed(session, group, before=releases, by=by.name, now=now)
    stored = policies.policy_version(session, name, version)
    return _policy(stored, policies.versions_in_force(session))


def try_policy(
    session: Session, document: str, *, group: str, limit: int | None, by: Principal
) -> DryRun:
    """What a document would do to the devices of a group, by the evidence that is kept.

    At most `limit` devices are looked at; None: all.

    Raises:
        PolicyDocumentError: it is no policy.
        PolicyUnknownError: there is no such group.
    """
    by.require(Role.OPERATOR)
    policies.group_of(session, group if by.sees(group) else "")
    policy, trust = policies.read_policy(document), enclave_trust(session)
    return dry_run(session, policy, group=group, trust=trust, limit=limit)


def _accepted(session: Session, group: str) -> frozenset[str]:
    """The releases that the devices of a group may run."""
    return rules_of(session, group).rules.references.accepted


def _seen(session: Session, by: Principal) -> frozenset[str] | None:
    """The policies of the groups that `by` sees; None: all."""
    if by.groups is None:
        return None
    return frozenset(row.policy for row in policies.list_groups(session) if by.sees(row.name))


def _group(row: Group, in_force: Mapping[str, ActivePolicy]) -> GroupReport:
    active = in_force.get(row.policy)
    return GroupReport(
        name=row.name,
        label=row.label,
        policy=row.policy,
        policy_version=None if active is None else active.version,
        created_at=row.created_at,
    )


def _policy(row: StoredPolicy, in_force: Mapping[str, ActivePolicy]) -> PolicyReport:
    active = in_force.get(row.name)
    if active is not None and active.version != row.version:
        active = None
    return PolicyReport(
        name=row.name,
        version=row.version,
        active=active is not None,
        sha256=row.digest.hex(),
        author=row.author,
        note=row.note,
        added_at=row.added_at,
        signer=row.signer,
        activated_at=None if active is None else active.activated_at,
        activated_by="" if active is None else active.activated_by,
    )
