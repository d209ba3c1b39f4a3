"""Campaigns: making the roots of a whole group due, a few devices at a time.

    start ──▶ campaign row ──▶ expand, expand, … (by device name) ──▶ finished

Rules:
1. Starting a campaign costs one row, however many devices the group has.
2. It goes ahead at the group's rate: it never makes more due than is granted.
3. Of several replicas one works at a campaign, and the others at another.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import BigInteger, Index, Select, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import MINUTE
from hwtrust_backend.db import Base, Millis
from hwtrust_backend.enrolment import Device, rules_of
from hwtrust_backend.policies import list_groups, policy_of
from hwtrust_backend.publishing.schedule import Reason, make_due
from hwtrust_backend.references import list_releases

CHUNK: Final = 200
"""Devices of one transaction, at most."""
PACE: Final = MINUTE
"""How far ahead of its time a campaign may be, in milliseconds."""


class Campaign(Base):
    """One reason for which all roots of a group are replaced."""

    __tablename__ = "campaigns"
    __table_args__ = (Index("ix_campaigns_finished_at_next_at", "finished_at", "next_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    group: Mapped[str] = mapped_column(String(100))
    reason: Mapped[str] = mapped_column(String(40))
    detail: Mapped[str] = mapped_column(String(200))
    """The release, for people."""
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[Millis]
    next_at: Mapped[Millis]
    """When the next devices are taken."""
    cursor: Mapped[str] = mapped_column(String(140))
    """The last device that was taken; they are taken by name."""
    taken: Mapped[int]
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


def start_campaign(
    session: Session, group: str, reason: Reason, *, detail: str = "", by: str, now: int
) -> Campaign:
    """Begin to make the roots of a group's devices due. Devices that enrol later are not meant."""
    campaign = Campaign(
        group=group,
        reason=reason.value,
        detail=detail[:200],
        actor=by,
        created_at=now,
        next_at=now,
        cursor="",
        taken=0,
        finished_at=None,
    )
    session.add(campaign)
    said = f"{group}: {reason.value} {detail}".strip()
    record(session, Event.CAMPAIGN_STARTED, now=now, reason=said, actor=by)
    return campaign


def release_accepted(session: Session, release: str, *, by: str, now: int) -> list[Campaign]:
    """Begin a campaign for every group whose policy accepts the release and replaces roots for it.

    A group's earlier campaign for another release is over by that.
    """
    started = []
    for group in list_groups(session):
        policy = policy_of(session, group.name)
        accepts = policy.releases is None or release in policy.releases
        if not accepts or Reason.RELEASE.value not in policy.rotation.triggers:
            continue
        started.append(_for_release(session, group.name, release, by=by, now=now))
    return started


def policy_changed(
    session: Session, group: str, *, before: Collection[str], by: str, now: int
) -> Campaign | None:
    """Begin a campaign for the newest release that a group's policy did not accept `before`.

    None where its policy does not replace roots for releases, and for one that the
    group had a campaign for: a policy that was taken back costs no roots.
    """
    held_to = rules_of(session, group)
    if Reason.RELEASE.value not in held_to.policy.rotation.triggers:
        return None
    had = session.scalars(
        select(Campaign.detail).where(
            Campaign.group == group, Campaign.reason == Reason.RELEASE.value
        )
    )
    new = held_to.rules.references.accepted.difference(before, had)
    if not new:
        return None
    accepted = [row for row in list_releases(session) if row.name in new]
    newest = max(accepted, key=lambda row: row.accepted_at or 0)
    return _for_release(session, group, newest.name, by=by, now=now)


def _for_release(session: Session, group: str, release: str, *, by: str, now: int) -> Campaign:
    for earlier in _under_way(session, group):
        _finish(session, earlier, now=now)
    return start_campaign(session, group, Reason.RELEASE, detail=release, by=by, now=now)


def expand(session: Session, *, now: int) -> int:
    """Make some more devices due; gives how many were looked at. 0: nothing is to do now."""
    query = (
        select(Campaign)
        .where(Campaign.finished_at.is_(None), Campaign.next_at <= now)
        .order_by(Campaign.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    campaign = session.scalars(query).one_or_none()
    if campaign is None:
        return 0
    policy = policy_of(session, campaign.group)
    reason = Reason(campaign.reason)
    count = min(CHUNK, max(policy.rotation.per_minute, 1))
    devices = list(session.scalars(_next_devices(campaign, count)))
    for device in devices:
        # Who enrolled after the campaign began has a root that is newer than it.
        if device.enrolled_at <= campaign.created_at:
            make_due(device, reason, policy=policy, now=now)
    campaign.taken += len(devices)
    if len(devices) < count:
        _finish(session, campaign, now=now)
    else:
        campaign.cursor = devices[-1].id
        took = len(devices) * MINUTE // policy.rotation.per_minute
        # What was missed while nobody worked at it is not made up for.
        campaign.next_at = max(campaign.next_at, now - PACE) + took
    return len(devices)


def unfinished(session: Session) -> list[Campaign]:
    """Campaigns that are under way, oldest first."""
    query = select(Campaign).where(Campaign.finished_at.is_(None)).order_by(Campaign.id)
    return list(session.scalars(query))


def _next_devices(campaign: Campaign, count: int) -> Select[Device]:
    return (
        select(Device)
        .where(Device.group == campaign.group, Device.id > campaign.cursor)
        .order_by(Device.id)
        .limit(count)
        .with_for_update()
    )


def _under_way(session: Session, group: str) -> list[Campaign]:
    query = select(Campaign).where(Campaign.group == group, Campaign.finished_at.is_(None))
    return list(session.scalars(query.with_for_update()))


def _finish(session: Session, campaign: Campaign, *, now: int) -> None:
    campaign.finished_at = now
    said = f"{campaign.group}: {campaign.reason} {campaign.detail}".strip()
    reason = f"{said}; {campaign.taken} devices"
    record(session, Event.CAMPAIGN_FINISHED, now=now, reason=reason, actor=campaign.actor)
