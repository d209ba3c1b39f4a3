"""The rules by which a device accepts a root, an approval, and the time.

    RootDelivery ── accept_root ─────▶ AcceptedRoot    what may be imported
    kept on disk ── reopen_root ─────▶ HeldRoot        what the TPM may be asked for
    Approval     ── accept_approval ─▶ Authorize       what may be run and kept
    Envelope     ── accept_time ─────▶ UTC in ms       what the TPM clock may be set to

Pure: no file, socket or clock. TPM2_Import authenticates nobody, so a root is
imported only once it is an `AcceptedRoot`. Rules, in the order in which they
are checked (the code carries their numbers):

1.  signature  the metadata key has signed the metadata; nothing else is looked
               at before that.
2.  device     it is for this device, and wrapped for this storage key.
3.  epoch      it is the next one, counter + 1; or the one after that, where the
               backend leaves out an epoch that it may have given away and
               forgotten; or the held one offered again, the same object. A
               device that holds no root takes none but the counter's.
4.  release    it is for the release that this device runs.
5.  time       not_before <= now < not_after.
6.  name       the object is the one that the metadata names.
7.  object     it is sealed data that only a policy opens, with no other right
               to it, for anybody.
8.  policy     that policy is the policy key's, for this device and this epoch.
9.  approval   the policy key has approved a state for this device and epoch.
10. expiry     the approval has not expired by the TPM's clock.
11. increments the leaves to revoke what comes before: exactly one for each epoch
               from the counter's to the one before the root's, signed by the
               policy key.
12. answer     a time is for this device and answers the challenge that it took.

There is no pointer to the current root: it is the one of the counter's epoch.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from enum import Enum, auto
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, Literal

from hwtrust.errors import (
    EmptyNonceError,
    RootApprovalError,
    RootClockError,
    RootDeviceError,
    RootEpochError,
    RootExpiredError,
    RootNameError,
    RootObjectError,
    RootReleaseError,
    RootTimeError,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import SignedTime
from hwtrust.wire.policy import fold
from hwtrust.wire.root import (
    RootMetadata,
    authorization,
    increment_ref,
    root_policy,
    root_ref,
)
from hwtrust.wire.structures import KeyedHashParams, ObjectAttributes, Public

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from hwtrust.wire.envelope import Envelope
    from hwtrust.wire.policy import Authorize
    from hwtrust.wire.root import Approval, Increment, RootDelivery


class Held(Enum):
    """What stands in the place of the held root's object Name."""

    FIRST = auto()
    """The device holds no root of the counter's epoch."""


FIRST: Final = Held.FIRST

MOST_STEPS: Final = 2
"""How far a root's epoch may be above the counter."""

SEALED_ATTRIBUTES: Final = frozenset(
    {
        ObjectAttributes.ADMIN_WITH_POLICY,
        ObjectAttributes.ADMIN_WITH_POLICY | ObjectAttributes.NO_DA,
    }
)
"""Nothing but its policy opens the object, and nothing but its policy administers it."""

_ACCEPTED: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRoot:
    """A root that passed every rule; only `accept_root` makes them."""

    metadata: RootMetadata
    delivery: RootDelivery
    public: Public
    authorization: Authorize
    """What runs after `delivery.approval.policy(...)` to open the root."""
    increments: tuple[Authorize, ...]
    """What runs after the policies of `delivery.increments` to revoke what comes before."""
    accepted: InitVar[object]

    def __post_init__(self, accepted: object) -> None:
        if accepted is not _ACCEPTED:
            raise TypeError("roots are accepted by hwtrust.roots.accept_root alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRoot:
    """A root on disk that is still what the backend signed; only `reopen_root` makes them."""

    metadata: RootMetadata
    public: Public
    authorization: Authorize
    accepted: InitVar[object]

    def __post_init__(self, accepted: object) -> None:
        if accepted is not _ACCEPTED:
            raise TypeError("kept roots are checked by hwtrust.roots.reopen_root alone")


def accept_root(
    delivery: RootDelivery,
    *,
    metadata_key: ec.EllipticCurvePublicKey,
    policy_key: Public,
    device: bytes,
    storage_key: bytes,
    held: bytes | Literal[Held.FIRST],
    counter: int,
    release: str,
    now_ms: int,
    clock_ms: int,
) -> AcceptedRoot:
    """Check a root before it is imported.

    `device` and `storage_key` are Names of this TPM's EK and storage key;
    `counter` is the epoch counter's value, and `held` the Name of the sealed
    object that it opens, or FIRST. `now_ms` is UTC, `clock_ms` the TPM's clock.

    Raises:
        EnvelopeError: the metadata is not signed by the metadata key.
        RootError: the root is refused; the class says why.
        WireError: metadata, public area or approval are malformed.
    """
    # (1): signature.
    metadata = unseal(delivery.metadata, RootMetadata, key=metadata_key)
    # (2): device.
    if not compare_digest(metadata.device, device):
        raise RootDeviceError("the root was made for another device")
    if not compare_digest(metadata.storage_key, storage_key):
        raise RootDeviceError("the root was made for another storage key; enrol again")
    # (3): epoch.
    _require_epoch(metadata, held=held, counter=counter)
    # (4): release.
    if metadata.release != release:
        raise RootReleaseError(
            f"the root is for release {metadata.release!r}, this device runs {release!r}",
            expected=release,
            found=metadata.release,
        )
    # (5): time.
    if not metadata.not_before <= now_ms < metadata.not_after:
        raise RootTimeError(
            "the root is not valid yet, or no longer",
            not_before=metadata.not_before,
            not_after=metadata.not_after,
            now=now_ms,
        )
    # (6) to (8): name, object, policy.
    public = _sealed_object(delivery.public, metadata, policy_key=policy_key)
    # (9) and (10): approval, expiry.
    statement = accept_approval(
        delivery.approval,
        policy_key=policy_key,
        device=device,
        epoch=metadata.epoch,
        clock_ms=clock_ms,
    )
    # (11): increments.
    increments = _accept_increments(
        delivery.increments,
        policy_key=policy_key,
        device=device,
        epochs=range(counter, metadata.epoch),
    )
    return AcceptedRoot(
        metadata=metadata,
        delivery=delivery,
        public=public,
        authorization=statement,
        increments=increments,
        accepted=_ACCEPTED,
    )


def reopen_root(
    metadata: Envelope,
    public: bytes,
    approval: Approval,
    *,
    metadata_key: ec.EllipticCurvePublicKey,
    policy_key: Public,
    device: bytes,
) -> HeldRoot:
    """Check a root that was kept on disk, which nobody has guarded, before the TPM is asked.

    Rules 1, 2, 6, 7, 8 and 9 again. Times and epoch are left to the TPM, which
    knows them better. `public` is a TPM2B_PUBLIC.

    Raises:
        EnvelopeError, RootError, WireError: as `accept_root`.
    """
    # (1): signature.
    known = unseal(metadata, RootMetadata, key=metadata_key)
    # (2): device.
    if not compare_digest(known.device, device):
        raise RootDeviceError("the root was made for another device")
    # (6) to (8): name, object, policy.
    area = _sealed_object(public, known, policy_key=policy_key)
    # (9): approval.
    statement = _approved(approval, policy_key=policy_key, device=device, epoch=known.epoch)
    return HeldRoot(metadata=known, public=area, authorization=statement, accepted=_ACCEPTED)


def accept_approval(
    approval: Approval, *, policy_key: Public, device: bytes, epoch: int, clock_ms: int
) -> Authorize:
    """Check a renewed approval for the root of `epoch`; `clock_ms` is the TPM's clock.

    Raises:
        RootApprovalError: for another epoch or device, or by another key.
        RootExpiredError: the TPM would not open anything by it any more.
        WireError: it is no recipe.
    """
    # (9): approval.
    statement = _approved(approval, policy_key=policy_key, device=device, epoch=epoch)
    # (10): expiry.
    if clock_ms >= approval.not_after:
        raise RootExpiredError(
            "the approval has expired by the TPM's clock",
            not_after=approval.not_after,
            clock=clock_ms,
        )
    return statement


def accept_time(
    envelope: Envelope,
    *,
    metadata_key: ec.EllipticCurvePublicKey,
    device: bytes,
    nonce: bytes,
) -> int:
    """Check a signed time and return it, UTC in milliseconds.

    `nonce` is the challenge that this device's evidence answered: the time is
    no older than that.

    Raises:
        EnvelopeError: not signed by the metadata key.
        EmptyNonceError: `nonce` is empty.
        RootClockError: for another device, or in answer to another challenge.
        MalformedError: signed, but no time.
    """
    # (1): signature.
    time = unseal(envelope, SignedTime, key=metadata_key)
    # (12): answer.
    if not nonce:
        raise EmptyNonceError("a time that answers no challenge may be of any age")
    if not compare_digest(time.device, device):
        raise RootClockError("the time was signed for another device")
    if not compare_digest(time.nonce, nonce):
        raise RootClockError("the time answers another challenge than this device's")
    return time.utc_ms


def _require_epoch(
    metadata: RootMetadata, *, held: bytes | Literal[Held.FIRST], counter: int
) -> None:
    epoch = metadata.epoch
    if held is FIRST:
        fits = epoch == counter
    else:
        above = epoch - counter
        again = above >= 0 and compare_digest(metadata.object_name, held)
        fits = again or 0 < above <= MOST_STEPS
    if not fits:
        raise RootEpochError(
            f"the root of epoch {epoch} is not the one that must come next; "
            f"the counter stands at {counter}",
            epoch=epoch,
            counter=counter,
        )


def _sealed_object(area: bytes, metadata: RootMetadata, *, policy_key: Public) -> Public:
    # (6): name.
    public = Public.decode_sized(area)
    if not compare_digest(metadata.object_name, public.name):
        raise RootNameError("the sealed object is not the one that the root's metadata names")
    # (7): object.
    sealed_data = public.params == KeyedHashParams() and public.name_alg is Alg.SHA256
    if not sealed_data or public.attributes not in SEALED_ATTRIBUTES:
        raise RootObjectError(
            "the object is not sealed data that a policy alone opens",
            type=int(public.type),
            attributes=int(public.attributes),
        )
    # (8): policy.
    policy = fold(root_policy(policy_key, metadata.device, metadata.epoch))
    if not compare_digest(public.auth_policy, policy):
        raise RootObjectError("the sealed object has another policy than the root of its epoch")
    return public


def _approved(approval: Approval, *, policy_key: Public, device: bytes, epoch: int) -> Authorize:
    # The reference holds the device, so the signature tells it.
    if approval.epoch != epoch:
        raise RootApprovalError(
            f"the approval is for epoch {approval.epoch}, the root's is {epoch}",
            expected=epoch,
            found=approval.epoch,
        )
    return authorization(approval, root_ref(device, epoch), policy_key=policy_key)


def _accept_increments(
    increments: tuple[Increment, ...], *, policy_key: Public, device: bytes, epochs: range
) -> tuple[Authorize, ...]:
    found = [increment.epoch for increment in increments]
    if found != list(epochs):
        raise RootApprovalError(
            "the root does not come with the leave to count from each epoch before it",
            expected=", ".join(map(str, epochs)),
            found=", ".join(map(str, found)),
        )
    ref = increment_ref(device)
    return tuple(authorization(increment, ref, policy_key=policy_key) for increment in increments)
