"""What the devices of a group are held to: its policy and the releases, put together once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.orm import Session

from hwtrust.verify.appraise import References
from hwtrust.verify.policy import Rules
from hwtrust_backend.db import RULES, Kept
from hwtrust_backend.policies import Policy, policy_of
from hwtrust_backend.references import references


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
        found = known.groups[group] = GroupRules(policy, rules_by(policy, known.references))
    return found


def rules_by(policy: Policy, known: References) -> Rules:
    """The rules of a policy over the releases that are known."""
    accepted = known.accepted
    if policy.releases is not None:
        accepted &= policy.releases
    return Rules(
        references=References(releases=known.releases, accepted=accepted),
        clock=policy.clock,
        evidence=policy.evidence,
        pcrs=policy.pcrs,
        log=policy.log,
        on_failure=policy.on_failure,
        absent=policy.absent,
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """All releases at one serial, and the groups' rules that were asked for since."""

    references: References
    groups: dict[str, GroupRules] = field(default_factory=dict)


def _read(session: Session) -> _Known:
    return _Known(references(session))


_KNOWN: Final = Kept(RULES, _read)
