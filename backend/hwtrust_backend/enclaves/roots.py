"""Roots of enclaves: 32 random bytes, sealed to the key that the evidence binds, and forgotten.

        made, sealed ──▶ offered ──(evidence names its epoch)──▶ active ──▶ retired

When a root is due, and what is noted of it, is as for a TPM's device (`publishing`).
What differs follows from an enclave having no counter, and perhaps no memory:

1. Its own measured code names its epoch, in authentic evidence that is accepted; no
   hardware counts. An epoch below the active root's is revoked all the same.
2. One that names epoch 0 has no root: the next one is due at once.
3. What was offered is offered again as it is. It is sealed to one key, for one release:
   where either has changed, that epoch is left out, and the next one is made.
4. Only an enclave without any finding that fails or is incomplete gets a root: nothing
   but the verdict keeps it from being opened.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import EnrolmentEpochError, ReleaseKeyMissingError, RootObjectError
from hwtrust.verify.enclaves.judge import NO_ROOT
from hwtrust.wire.enclave import ROOT_SIZE, EnclaveRoot, EnclaveRootMetadata, seal_root
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import RELEASE_KEY_SIZE, Binding, Release
from hwtrust_backend.audit import Event, record
from hwtrust_backend.enrolment import AnyDevice, Device, DeviceState
from hwtrust_backend.enrolment.devices import LAST_EPOCH
from hwtrust_backend.keys import Signer
from hwtrust_backend.policies import Policy
from hwtrust_backend.publishing import Publisher, RootState, StoredRoot, recovery, schedule
from hwtrust_backend.publishing.live import live_roots, note_change, stored_root
from hwtrust_backend.publishing.service import (
    BACKDATED_MS,
    note_offered,
    retire_root,
    roots_of,
)

MISSING: Final = "missing"
"""The reason of a root for an enclave that has none."""
_MOST_FORGOTTEN: Final = 1 << 20
"""How far above all known epochs one may be that a restored database has forgotten."""


@dataclass(frozen=True, slots=True)
class EnclaveRoots:
    """Makes enclaves' roots. The caller holds the device's row."""

    publisher: Publisher
    metadata_key: Signer

    def first(
        self,
        session: Session,
        device: Device,
        *,
        binding: Binding,
        release: Release,
        policy: Policy,
        now: int,
    ) -> EnclaveRoot:
        """The root of an enclave that has just enrolled; earlier ones of it are over.

        Raises:
            ReleaseKeyMissingError: it names no key to seal the root to.
            EnrolmentEpochError: there is no epoch left.
        """
        earlier = roots_of(session, device.id)
        epoch = 1
        if earlier:
            newest = earlier[-1]
            epoch += newest.epoch + (newest.made_at <= recovery.recovered_at(session))
        for root in earlier:
            retire_root(session, root, now=now)
        made = self._make(
            session,
            device,
            epoch,
            binding=binding,
            release=release,
            policy=policy,
            reason="enrolment",
            now=now,
        )
        found = _delivery(made)
        made.state, made.confirmed_at = RootState.ACTIVE, now
        made.duplicate = None
        note_change(session, device.id)
        device.base_epoch = device.counter = epoch
        schedule.enrolled(device, made, policy=policy, now=now)
        return found

    def epochs(self, session: Session, device: DeviceState, *, claimed: int) -> frozenset[int]:
        """The epochs that an enclave may name: the active root's, and the offered one's."""
        live = live_roots(session, device.id)
        known = frozenset(root.epoch for root in live if root is not None)
        near = live.newest is not None and claimed <= live.newest.epoch + _MOST_FORGOTTEN
        if near and recovery.forgotten(session, live, claimed):
            return frozenset({claimed})
        return known

    def follow(
        self,
        session: Session,
        device: DeviceState,
        *,
        binding: Binding,
        release: Release,
        policy: Policy,
        now: int,
    ) -> EnclaveRoot | None:
        """What an enclave without findings gets: the next root, if it is due.

        Raises:
            ReleaseKeyMissingError: it is due, and there is no key to seal it to.
        """
        active, found = live_roots(session, device.id)
        if active is None:
            return None
        if found is not None:
            offered = stored_root(session, found)
            if _still_good(offered, binding, release, policy, now):
                return _delivery(offered)
            # (3): sealed to another key, for another release, or nearly over.
            reason, newest = offered.reason, found
        elif binding.epoch == NO_ROOT:
            reason, newest = MISSING, active
        else:
            reason = schedule.granted(session, device, active, policy=policy, now=now)
            if not reason and recovery.taken_over(active):
                reason = recovery.RECOVERED
            newest = active
        if not reason:
            return None
        made = self._make(
            session,
            device,
            newest.epoch + 1 + recovery.unsettled(session, newest),
            binding=binding,
            release=release,
            policy=policy,
            reason=reason,
            now=now,
        )
        if found is not None:
            retire_root(session, stored_root(session, found), now=now)
        note_change(session, device.id)
        note_offered(session, device, epoch=made.epoch, reason=reason, now=now)
        return _delivery(made)

    def _make(
        self,
        session: Session,
        device: AnyDevice,
        epoch: int,
        *,
        binding: Binding,
        release: Release,
        policy: Policy,
        reason: str,
        now: int,
    ) -> StoredRoot:
        if epoch > LAST_EPOCH:
            raise EnrolmentEpochError("the device has no epoch left")
        not_after = now + policy.root_lifetime_ms
        metadata = EnclaveRootMetadata(
            device=device.name,
            epoch=epoch,
            release=release.name,
            # Enclaves' clocks may be behind ours.
            not_before=now - BACKDATED_MS,
            not_after=not_after,
            release_key=binding.release_key,
        )
        envelope = seal(metadata, sign=self.metadata_key.sign)
        root = StoredRoot(
            device=device.id,
            epoch=epoch,
            state=RootState.OFFERED,
            release=release.name,
            reason=reason,
            made_at=now,
            not_after=not_after,
            confirmed_at=None,
            retired_at=None,
            object_name=_key_digest(binding),
            metadata_envelope=msgspec.json.encode(envelope),
            public=None,
            duplicate=_sealed(binding, envelope),
            seed=None,
        )
        session.add(root)
        # Now, so that a second root of this epoch fails here and not at the end.
        session.flush()
        record(
            session,
            Event.ROOT_MADE,
            now=now,
            device=device.id,
            reason=f"epoch {epoch}, {reason}, for release {release.name}",
        )
        return root


def require_release_key(binding: Binding) -> None:
    """Refuse a binding that names no key to seal roots to.

    Raises:
        ReleaseKeyMissingError: it does not.
    """
    if len(binding.release_key) != RELEASE_KEY_SIZE:
        raise ReleaseKeyMissingError("the binding names no key to seal roots to")


def _sealed(binding: Binding, metadata: Envelope) -> bytes:
    try:
        return seal_root(os.urandom(ROOT_SIZE), release_key=binding.release_key, metadata=metadata)
    except RootObjectError as error:
        raise ReleaseKeyMissingError(error.message) from error


def _still_good(
    offered: StoredRoot, binding: Binding, release: Release, policy: Policy, now: int
) -> bool:
    return (
        offered.duplicate is not None
        and offered.object_name == _key_digest(binding)
        and offered.release == release.name
        and offered.not_after - now >= policy.root_lifetime_ms // 3
    )


def _key_digest(binding: Binding) -> bytes:
    """By what a stored root says to whom it is sealed."""
    return hashlib.sha256(binding.release_key).digest()


def _delivery(root: StoredRoot) -> EnclaveRoot:
    envelope = msgspec.json.decode(root.metadata_envelope, type=Envelope)
    return EnclaveRoot(metadata=envelope, sealed=root.duplicate or b"")
