"""What the devices of a group are held to: its policy and the releases, put together once.

All of it follows from what the stamp `RULES` counts, the list of published releases
too: who publishes counts it up. So an attestation asks for one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.orm import Session

from hwtrust.verify.appraise import References
from hwtrust.verify.policy import Rules, UpdateRules
from hwtrust_backend.db import RULES, Kept
from hwtrust_backend.policies import Policy, policy_of
from hwtrust_backend.references import acceptances, references
from hwtrust_backend.repository import listed_releases


@dataclass(frozen=True, slots=True)
class GroupRules:
    """A group's policy, and the same as `hwtrust.verify.policy` takes it."""

    policy: Policy
    rules: Rules


def rules_of(session: Session, group: str) -> GroupRules:
    """What the devices of a group are held to now."""
    known = _KNOWN.get(session)
    found = known.groups.get(group)
    if found is None:
        policy = policy_of(session, group)
        found = known.groups[group] = GroupRules(policy, rules_by(policy, known.releases))
    return found


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases that are known, when each was accepted, and which devices can get."""

    references: References
    accepted_at: Mapping[str, int]
    published: frozenset[str]


def known_releases(session: Session) -> Releases:
    """The releases as they are now."""
    return Releases(references(session), acceptances(session), listed_releases(session))


def rules_by(policy: Policy, known: Releases) -> Rules:
    """The rules of a policy over the releases that are known."""
    accepted = known.references.accepted
    if policy.releases is not None:
        accepted &= policy.releases
    return Rules(
        references=References(releases=known.references.releases, accepted=accepted),
        updates=UpdateRules.of(
            {name: at for name, at in known.accepted_at.items() if name in accepted},
            published=known.published,
            within_ms=policy.update_within_ms,
        ),
        clock=policy.clock,
        evidence=policy.evidence,
        pcrs=policy.pcrs,
        log=policy.log,
        platform=policy.platform,
        on_failure=policy.on_failure,
        absent=policy.absent,
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """All releases at one serial, and the groups' rules that were asked for since."""

    releases: Releases
    groups: dict[str, GroupRules] = field(default_factory=dict)


def _read(session: Session) -> _Known:
    return _Known(known_releases(session))


_KNOWN: Final = Kept(RULES, _read)
