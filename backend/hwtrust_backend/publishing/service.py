"""Which root a device has, which it gets next, and until when it may open it.

        made ──▶ offered ──(certified counter shows it)──▶ active ──▶ retired

Rules:
1. One device never gets two different roots of one epoch: the primary key of
   `roots` forbids it, and what is offered is stored and offered again as it is.
2. While a root is offered, both its epoch and the active one are accepted;
   once the counter shows it, it alone.
3. A root is made only on an authentic attestation that has not failed, when
   the schedule grants it (`schedule`).
4. A root that was offered and has nearly expired unconfirmed, or whose device
   runs another release by now, gets new metadata; it is the same object of the
   same epoch.
5. A device that was away until its root expired gets a last short approval for
   it, together with the next root: without both it could not move its keys.
6. After the database was restored, an epoch that may have been given away and
   forgotten is left out (`recovery`).
7. A device that holds a second release which it may run gets leave for both, with
   each approval from its first attestation on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import RootEpochError
from hwtrust.verify.evidence import Claims
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import Release, Standing
from hwtrust.wire.root import Approval, RootDelivery, RootMetadata
from hwtrust.wire.structures import Public
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import HOUR, MINUTE
from hwtrust_backend.enrolment import AnyDevice, Device, DeviceState
from hwtrust_backend.keys import Signer
from hwtrust_backend.policies import Policy
from hwtrust_backend.publishing import recovery, schedule
from hwtrust_backend.publishing.live import (
    AnyRoot,
    LiveRoot,
    LiveRoots,
    live_roots,
    note_change,
    read_live_roots,
    stored_root,
)
from hwtrust_backend.publishing.models import RootState, StoredRoot
from hwtrust_backend.publishing.recipes import (
    MadeRoot,
    allow_increment,
    approve,
    make_root,
    sign_metadata,
)
from hwtrust_backend.webhooks import Topic, announce

BACKDATED_MS: Final = 5 * MINUTE
UNSHOWN_MS: Final = 10 * MINUTE
"""How long the first root opens for a device whose logs are still to come."""
MOVE_WINDOW_MS: Final = HOUR
"""How long an expired root may still be opened to move the keys to the next one (rule 5)."""


class Running(NamedTuple):
    """What a device runs, and the release to which it may switch."""

    release: Release
    other: Release | None = None


@dataclass(frozen=True, slots=True)
class Publisher:
    """Makes and approves roots. The caller holds the device's row."""

    policy_key: Signer
    metadata_key: Signer

    def first(
        self,
        session: Session,
        device: Device,
        *,
        claims: Claims,
        release: Release,
        policy: Policy,
        now: int,
    ) -> RootDelivery:
        """Root number one after an enrolment; earlier roots of the device are over.

        Where the policy asks for logs of firmware or kernel, which come with the first
        attestation, it opens only for so long.

        Raises:
            RootEpochError: the device had a root of this epoch, or of a later one.
        """
        for earlier in roots_of(session, device.id):
            if earlier.epoch >= device.base_epoch:
                message = f"the device has had a root of epoch {earlier.epoch} before"
                raise RootEpochError(message, epoch=earlier.epoch)
            retire_root(session, earlier, now=now)
        root, made = self._make(
            session,
            device,
            device.base_epoch,
            release,
            policy=policy,
            reason="enrolment",
            now=now,
        )
        root.state, root.confirmed_at = RootState.ACTIVE, now
        # Enrolling stores its reply; after that nobody needs the parts again.
        root.public = root.duplicate = root.seed = None
        schedule.enrolled(device, root, policy=policy, now=now)
        return RootDelivery(
            metadata=_envelope(root),
            public=made.public,
            duplicate=made.duplicate,
            seed=made.seed,
            approval=approve(
                claims,
                release,
                other=None,
                epoch=root.epoch,
                left_ms=_left(root, policy, now)
                if policy.platform is None
                else min(_left(root, policy, now), UNSHOWN_MS),
                policy_key=self.policy_key,
            ),
        )

    def prepare(self, session: Session, devices: Collection[str]) -> None:
        """Read at once what the other methods look up; the caller holds these devices' rows."""
        read_live_roots(session, devices)

    def epochs(self, session: Session, device: DeviceState, *, counter: int) -> frozenset[int]:
        """The values that the epoch counter may show: from the active root's to the offered one's.

        `counter` is what it shows; after a recovery it may be one that was forgotten.
        """
        live = live_roots(session, device.id)
        if recovery.forgotten(session, live, counter):
            return frozenset({counter, counter + 1})
        oldest, newest = live.active or live.offered, live.newest
        if oldest is None or newest is None:
            return frozenset()
        return frozenset(range(oldest.epoch, newest.epoch + 1))

    def confirm(self, session: Session, device: DeviceState, *, counter: int, now: int) -> None:
        """Note what the certified counter shows: an offered root at its epoch is now active."""
        live = live_roots(session, device.id)
        if recovery.forgotten(session, live, counter):
            for root in filter(None, live):
                retire_root(session, stored_root(session, root), now=now)
            recovery.take_over(session, device, epoch=counter, now=now)
            note_change(session, device.id)
            return
        if live.offered is None or live.offered.epoch != counter:
            return
        confirm_offered(session, device, live, now=now)

    def forgets_before(self, session: Session) -> int:
        """Until when challenges may have been answered and forgotten, UTC milliseconds."""
        return recovery.recovered_at(session)

    def attested(
        self, session: Session, device: DeviceState, *, before: Standing, policy: Policy, now: int
    ) -> None:
        """Note that a device was heard of, `before` being its standing until now."""
        schedule.attested(session, device, before=before, policy=policy, now=now)

    def follow(
        self,
        session: Session,
        device: DeviceState,
        *,
        claims: Claims,
        release: Release,
        other: Release | None,
        policy: Policy,
        now: int,
    ) -> tuple[Approval | None, RootDelivery | None]:
        """What a device that has not failed gets: leave for its root, and the next one if due.

        `release` is what it runs, `other` one in its second slot that it may run too.
        """
        running = Running(release, other)
        active, found = live_roots(session, device.id)
        if active is None:
            return None, None
        beyond = active.epoch + 1 if found is None else found.epoch
        if not active.epoch <= claims.counter < beyond:
            return None, None
        offered = None if found is None else stored_root(session, found)
        if offered is None:
            reason = schedule.granted(session, device, active, policy=policy, now=now)
            if not reason and recovery.taken_over(active):
                reason = recovery.RECOVERED
            if reason:
                epoch = active.epoch + 1 + recovery.unsettled(session, active)
                offered, _ = self._make(
                    session, device, epoch, release, policy=policy, reason=reason, now=now
                )
                note_offered(session, device, epoch=epoch, reason=reason, now=now)
        elif _outdated(offered, release, policy, now):
            self._redate(session, device, offered, release, policy=policy, now=now)
        if offered is not None and claims.counter > active.epoch:
            # The epoch that was left out is being counted over: the next root opens already.
            approval: Approval | None = self._approval(claims, offered, running, policy, now)
        else:
            approval = self._active_approval(
                session, claims, active, offered, running, policy=policy, now=now
            )
        if offered is None:
            return approval, None
        return approval, self._delivery(claims, offered, running, policy, now=now)

    def _make(
        self,
        session: Session,
        device: AnyDevice,
        epoch: int,
        release: Release,
        *,
        policy: Policy,
        reason: str,
        now: int,
    ) -> tuple[StoredRoot, MadeRoot]:
        storage_key = Public.decode_sized(device.storage_public)
        made = make_root(
            device=device.name, epoch=epoch, storage_key=storage_key, policy_key=self.policy_key
        )
        root = StoredRoot(
            device=device.id,
            epoch=epoch,
            state=RootState.OFFERED,
            release=release.name,
            reason=reason,
            made_at=now,
            not_after=now + policy.root_lifetime_ms,
            confirmed_at=None,
            retired_at=None,
            object_name=made.object_name,
            metadata_envelope=b"",
            public=made.public,
            duplicate=made.duplicate,
            seed=made.seed,
        )
        self._date(device, root, now)
        session.add(root)
        # Now, so that a second root of this epoch fails here and not at the end.
        note_change(session, device.id)
        record(
            session,
            Event.ROOT_MADE,
            now=now,
            device=device.id,
            reason=f"epoch {epoch}, {reason}, for release {release.name}",
        )
        return root, made

    def _redate(
        self,
        session: Session,
        device: DeviceState,
        root: StoredRoot,
        release: Release,
        *,
        policy: Policy,
        now: int,
    ) -> None:
        root.not_after, root.release = now + policy.root_lifetime_ms, release.name
        self._date(device, root, now)
        note_change(session, device.id)
        reason = f"epoch {root.epoch} is still not confirmed; for release {release.name}"
        record(session, Event.ROOT_REDATED, now=now, device=device.id, reason=reason)

    def _date(self, device: AnyDevice, root: StoredRoot, now: int) -> None:
        metadata = RootMetadata(
            device=device.name,
            epoch=root.epoch,
            release=root.release,
            # Devices' clocks may be behind ours.
            not_before=now - BACKDATED_MS,
            not_after=root.not_after,
            object_name=root.object_name,
            storage_key=Public.decode_sized(device.storage_public).name,
        )
        envelope = sign_metadata(metadata, metadata_key=self.metadata_key)
        root.metadata_envelope = msgspec.json.encode(envelope)

    def _approval(
        self, claims: Claims, root: AnyRoot, running: Running, policy: Policy, now: int
    ) -> Approval:
        return approve(
            claims,
            running.release,
            other=running.other,
            epoch=root.epoch,
            left_ms=_left(root, policy, now),
            policy_key=self.policy_key,
        )

    def _active_approval(
        self,
        session: Session,
        claims: Claims,
        active: LiveRoot,
        offered: StoredRoot | None,
        running: Running,
        *,
        policy: Policy,
        now: int,
    ) -> Approval | None:
        if _left(active, policy, now) > 0:
            return self._approval(claims, active, running, policy, now)
        if offered is None:
            return None
        reason = f"epoch {active.epoch} has expired; to move the keys to {offered.epoch}"
        record(session, Event.APPROVAL_EXTENDED, now=now, device=active.device, reason=reason)
        return approve(
            claims,
            running.release,
            other=running.other,
            epoch=active.epoch,
            left_ms=min(MOVE_WINDOW_MS, policy.offline_grace_ms),
            policy_key=self.policy_key,
        )

    def _delivery(
        self,
        claims: Claims,
        offered: StoredRoot,
        running: Running,
        policy: Policy,
        *,
        now: int,
    ) -> RootDelivery | None:
        if offered.public is None or offered.duplicate is None or offered.seed is None:
            return None
        return RootDelivery(
            metadata=_envelope(offered),
            public=offered.public,
            duplicate=offered.duplicate,
            seed=offered.seed,
            approval=self._approval(claims, offered, running, policy, now),
            increments=tuple(
                allow_increment(
                    claims.device.name,
                    epoch=epoch,
                    counter_name=claims.device.counter_name,
                    policy_key=self.policy_key,
                )
                for epoch in range(claims.counter, offered.epoch)
            ),
        )


def retire_root(session: Session, root: StoredRoot, *, now: int) -> None:
    """Note that a root's epoch is over."""
    if root.state is RootState.RETIRED:
        return
    root.state, root.retired_at = RootState.RETIRED, now
    root.public = root.duplicate = root.seed = None
    reason = f"epoch {root.epoch}"
    record(session, Event.ROOT_RETIRED, now=now, device=root.device, reason=reason)


def confirm_offered(session: Session, device: DeviceState, live: LiveRoots, *, now: int) -> None:
    """Note that the device has the root that it was offered; there is one."""
    if live.offered is None:
        return
    if live.active is not None:
        retire_root(session, stored_root(session, live.active), now=now)
    offered = stored_root(session, live.offered)
    offered.state, offered.confirmed_at = RootState.ACTIVE, now
    offered.public = offered.duplicate = offered.seed = None
    note_change(session, device.id)
    reason = f"epoch {offered.epoch}"
    record(session, Event.ROOT_CONFIRMED, now=now, device=device.id, reason=reason)
    data = {
        "kind": device.kind,
        "group": device.group,
        "epoch": offered.epoch,
        "release": offered.release,
    }
    announce(session, Topic.ROOT_CONFIRMED, device=device.id, data=data, now=now)


def note_offered(
    session: Session, device: DeviceState, *, epoch: int, reason: str, now: int
) -> None:
    """Tell that a device is offered its next root; nothing is due any more."""
    data = {"kind": device.kind, "group": device.group, "epoch": epoch, "reason": reason}
    announce(session, Topic.ROOT_OFFERED, device=device.id, data=data, now=now)
    schedule.made(device)


def roots_of(session: Session, device: str) -> list[StoredRoot]:
    """Every root of a device, oldest first."""
    query = select(StoredRoot).where(StoredRoot.device == device).order_by(StoredRoot.epoch)
    return list(session.scalars(query))


def _outdated(offered: StoredRoot, release: Release, policy: Policy, now: int) -> bool:
    # A device takes no root that is for another release than the one it runs.
    old = offered.not_after - now < policy.root_lifetime_ms // 3
    return old or offered.release != release.name


def _left(root: AnyRoot, policy: Policy, now: int) -> int:
    return min(root.not_after - now, policy.offline_grace_ms)


def _envelope(root: StoredRoot) -> Envelope:
    return msgspec.json.decode(root.metadata_envelope, type=Envelope)
