"""A device accepts a root, an approval and a time only by the rules of `hwtrust.roots`."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from hwtrust.errors import (
    EmptyNonceError,
    EnvelopeError,
    HwTrustError,
    MalformedError,
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
from hwtrust.roots import (
    FIRST,
    AcceptedRoot,
    HeldRoot,
    accept_approval,
    accept_root,
    accept_time,
    reopen_root,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import SignedTime
from hwtrust.wire.policy import fold
from hwtrust.wire.protect import seal_for
from hwtrust.wire.root import (
    Approval,
    Branch,
    Increment,
    RootDelivery,
    RootMetadata,
    increment_ref,
    policy_key_public,
    root_policy,
    root_ref,
    sign_approval,
)
from hwtrust.wire.structures import KeyedHashParams, ObjectAttributes, Public
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hwtrust.wire.policy import Authorize

TPM: Final = SoftwareTpm(seed=b"this device")
OTHER: Final = SoftwareTpm(seed=b"another device")
DEVICE: Final = TPM.ek.name
STORAGE: Final = TPM.storage.name
METADATA_KEY: Final = ec.generate_private_key(ec.SECP256R1())
POLICY_KEY: Final = ec.generate_private_key(ec.SECP256R1())
FOREIGN_KEY: Final = ec.generate_private_key(ec.SECP256R1())
POLICY_PUBLIC: Final = policy_key_public(POLICY_KEY.public_key())

NOW: Final = 1_800_000_000_000
DAY: Final = 24 * 3600 * 1000
CLOCK: Final = 5_000_000
COUNTER: Final = 7
COUNTER_NAME: Final = b"\x00\x0b" + bytes(32)
UNCHANGED: Final[Mapping[str, Any]] = MappingProxyType({})
NONCE: Final = b"the challenge of this evidence"


def signs(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    """What signs messages with `key`."""
    return lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))


def signs_digest(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    """What signs digests with `key`."""
    return lambda digest: key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def make_approval(
    epoch: int = COUNTER + 1,
    *,
    device: bytes = DEVICE,
    key: ec.EllipticCurvePrivateKey = POLICY_KEY,
    not_after: int = CLOCK + DAY,
    for_epoch: int | None = None,
) -> Approval:
    """An approval as a backend signs it; `for_epoch` is that of the reference."""
    recipe = Approval(
        epoch=epoch,
        selection="sha256:12",
        branches=(
            Branch(label="cold", pcr_digest=b"\1" * 32),
            Branch(label="live", pcr_digest=b"\2" * 32),
        ),
        counter_name=COUNTER_NAME,
        not_after=not_after,
    )
    ref = root_ref(device, epoch if for_epoch is None else for_epoch)
    return sign_approval(recipe, ref, sign_digest=signs_digest(key))


def make_increment(
    epoch: int | None = COUNTER,
    *,
    device: bytes = DEVICE,
    key: ec.EllipticCurvePrivateKey = POLICY_KEY,
) -> Increment:
    """The leave to count up from `epoch`."""
    recipe = Increment(epoch=epoch, counter_name=COUNTER_NAME)
    return sign_approval(recipe, increment_ref(device), sign_digest=signs_digest(key))


SEALED: Final = {
    epoch: seal_for(
        TPM.storage, b"\5" * 32, auth_policy=fold(root_policy(POLICY_PUBLIC, DEVICE, epoch))
    )
    for epoch in range(COUNTER - 1, COUNTER + 4)
}


def make_public(epoch: int = COUNTER + 1, **changes: Any) -> Public:  # noqa: ANN401 - fields
    """The public area of the root of `epoch`, with changes."""
    return replace(Public.decode(SEALED[epoch].public), **changes)


def make_delivery(
    epoch: int = COUNTER + 1,
    *,
    key: ec.EllipticCurvePrivateKey = METADATA_KEY,
    public: Public | None = None,
    parts: Mapping[str, object] = UNCHANGED,
    **metadata: object,
) -> RootDelivery:
    """A root as a backend sends it; `metadata` and `parts` replace what is honest.

    The metadata is signed, and names the object that is sent, after replacing.
    """
    sealed = SEALED[epoch]
    public = public or Public.decode(sealed.public)
    honest = RootMetadata(
        device=DEVICE,
        epoch=epoch,
        release="1.0",
        not_before=NOW - DAY,
        not_after=NOW + DAY,
        object_name=public.name,
        storage_key=STORAGE,
    )
    signed = seal(msgspec.structs.replace(honest, **metadata), sign=signs(key))
    delivery = RootDelivery(
        metadata=signed,
        public=public.encode_sized(),
        duplicate=sealed.private,
        seed=sealed.seed,
        approval=make_approval(epoch),
        increments=tuple(make_increment(before) for before in range(COUNTER, epoch)),
    )
    return msgspec.structs.replace(delivery, **parts)


def accept(delivery: RootDelivery, changes: Mapping[str, Any] = UNCHANGED) -> AcceptedRoot:
    """Accept as a device does that holds the root of epoch 7."""
    expected: dict[str, Any] = {
        "metadata_key": METADATA_KEY.public_key(),
        "policy_key": POLICY_PUBLIC,
        "device": DEVICE,
        "storage_key": STORAGE,
        "held": SEALED[COUNTER].name,
        "counter": COUNTER,
        "release": "1.0",
        "now_ms": NOW,
        "clock_ms": CLOCK,
    }
    return accept_root(delivery, **(expected | dict(changes)))


def refusal(error: type[HwTrustError], code: str, call: Callable[[], object]) -> None:
    """Assert that `call` ends in exactly this error."""
    with pytest.raises(HwTrustError) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.code == code


# --- roots that are accepted ---------------------------------------------------------


def test_the_next_root_is_accepted_with_all_that_runs_for_it() -> None:
    """An accepted root holds the statements that open it and revoke its predecessor."""
    delivery = make_delivery()
    root = accept(delivery)
    assert root.metadata.epoch == COUNTER + 1
    assert root.delivery is delivery
    assert root.public.name == root.metadata.object_name
    assert root.authorization.approved == fold(delivery.approval.policy())
    assert root.authorization.ref == root_ref(DEVICE, COUNTER + 1)
    (increment,) = root.increments
    assert increment.ref == increment_ref(DEVICE)
    assert increment.key_name == root.authorization.key_name == POLICY_PUBLIC.name


ACCEPTED: dict[str, tuple[Callable[[], RootDelivery], dict[str, Any]]] = {
    "the first root, of the counter's epoch": (lambda: make_delivery(COUNTER), {"held": FIRST}),
    "the first root without an increment, which it does not need": (
        lambda: make_delivery(COUNTER, parts={"increments": ()}),
        {"held": FIRST},
    ),
    "the held root, offered again": (lambda: make_delivery(COUNTER), {}),
    "a root that leaves out an epoch, with leave for both": (
        lambda: make_delivery(COUNTER + 2),
        {},
    ),
    "a root in the first millisecond of its validity": (
        lambda: make_delivery(not_before=NOW),
        {},
    ),
    "a root in the last millisecond of its validity": (
        lambda: make_delivery(not_after=NOW + 1),
        {},
    ),
    "a root whose approval has one millisecond left": (
        lambda: make_delivery(parts={"approval": make_approval(not_after=CLOCK + 1)}),
        {},
    ),
    "an object that is subject to lockout": (
        lambda: make_delivery(public=make_public(attributes=ObjectAttributes.ADMIN_WITH_POLICY)),
        {},
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_device_accepts(case: str) -> None:
    """What the rules allow passes."""
    make, changes = ACCEPTED[case]
    assert isinstance(accept(make(), changes), AcceptedRoot)


# --- roots that are refused ------------------------------------------------------------


def forged_envelope() -> RootDelivery:
    """Metadata whose payload was changed after it was signed."""
    delivery = make_delivery()
    payload = delivery.metadata.payload.replace(b'"epoch":8', b'"epoch":9')
    assert payload != delivery.metadata.payload
    envelope = msgspec.structs.replace(delivery.metadata, payload=payload)
    return msgspec.structs.replace(delivery, metadata=envelope)


def another_type() -> RootDelivery:
    """A validly signed time in the place of metadata."""
    time = SignedTime(device=DEVICE, nonce=NONCE, utc_ms=NOW)
    return make_delivery(parts={"metadata": seal(time, sign=signs(METADATA_KEY))})


def unnamed_object() -> RootDelivery:
    """ADVERSARIES 81: another object under the metadata of the real one."""
    attacker = seal_for(
        TPM.storage,
        b"\6" * 32,
        auth_policy=fold(root_policy(POLICY_PUBLIC, DEVICE, COUNTER + 1)),
    )
    parts = {
        "public": tpm2b(attacker.public),
        "duplicate": attacker.private,
        "seed": attacker.seed,
    }
    return make_delivery(parts=parts)


def object_with(*attributes: ObjectAttributes) -> Callable[[], RootDelivery]:
    """An object that has further attributes, named by its metadata."""
    combined = ObjectAttributes.ADMIN_WITH_POLICY | ObjectAttributes.NO_DA
    for attribute in attributes:
        combined |= attribute
    return lambda: make_delivery(public=make_public(attributes=combined))


Case = tuple[type[HwTrustError], str, "Callable[[], RootDelivery]", dict[str, Any]]

EPOCH: Final = (RootEpochError, "root:epoch:mismatch")
OBJECT: Final = (RootObjectError, "root:object:unsafe")
APPROVAL: Final = (RootApprovalError, "root:approval:invalid")
TIME: Final = (RootTimeError, "root:time:invalid")
DEVICES: Final = (RootDeviceError, "root:device:mismatch")
ENVELOPE: Final = (EnvelopeError, "wire:envelope:signature")

REFUSED: dict[str, Case] = {
    "metadata signed by another key": (*ENVELOPE, lambda: make_delivery(key=FOREIGN_KEY), {}),
    "metadata signed by the policy key": (*ENVELOPE, lambda: make_delivery(key=POLICY_KEY), {}),
    "metadata that was changed": (*ENVELOPE, forged_envelope, {}),
    "another signed message in the place of metadata": (*ENVELOPE, another_type, {}),
    "the root of another device": (*DEVICES, lambda: make_delivery(device=OTHER.ek.name), {}),
    "67: a root for another storage key": (
        *DEVICES,
        lambda: make_delivery(storage_key=OTHER.storage.name),
        {},
    ),
    "65: a root that skips two epochs": (*EPOCH, lambda: make_delivery(COUNTER + 3), {}),
    "65: a root that skips an epoch, with leave to count once": (
        *APPROVAL,
        lambda: make_delivery(COUNTER + 2, parts={"increments": (make_increment(COUNTER),)}),
        {},
    ),
    "65: a root that skips an epoch, with leave for another order": (
        *APPROVAL,
        lambda: make_delivery(
            COUNTER + 2, parts={"increments": (make_increment(COUNTER + 1), make_increment())}
        ),
        {},
    ),
    "60: the root of an older epoch": (*EPOCH, lambda: make_delivery(COUNTER - 1), {}),
    "65: a root that repeats an epoch with another object": (
        *EPOCH,
        lambda: make_delivery(COUNTER),
        {"held": SEALED[COUNTER + 1].name},
    ),
    "65: the held object under another epoch": (
        *EPOCH,
        lambda: make_delivery(COUNTER - 1, public=make_public(COUNTER)),
        {},
    ),
    "a first root that is not of the counter's epoch": (*EPOCH, make_delivery, {"held": FIRST}),
    "a first root of an older epoch": (
        *EPOCH,
        lambda: make_delivery(COUNTER - 1),
        {"held": FIRST},
    ),
    "a root for another release": (
        RootReleaseError,
        "root:release:mismatch",
        lambda: make_delivery(release="2.0"),
        {},
    ),
    "a root that is not valid yet": (*TIME, lambda: make_delivery(not_before=NOW + 1), {}),
    "66: an expired root": (*TIME, lambda: make_delivery(not_after=NOW), {}),
    "81: another object than the metadata names": (
        RootNameError,
        "root:name:mismatch",
        unnamed_object,
        {},
    ),
    "an object that a password opens": (*OBJECT, object_with(ObjectAttributes.USER_WITH_AUTH), {}),
    "an object that never leaves its TPM": (*OBJECT, object_with(ObjectAttributes.FIXED_TPM), {}),
    "an object that never leaves its parent": (
        *OBJECT,
        object_with(ObjectAttributes.FIXED_PARENT),
        {},
    ),
    "a key in the place of data": (*OBJECT, object_with(ObjectAttributes.SIGN), {}),
    "an object with an attribute of tomorrow": (
        *OBJECT,
        object_with(ObjectAttributes(1 << 30)),
        {},
    ),
    "an object whose password administers it": (
        *OBJECT,
        lambda: make_delivery(public=make_public(attributes=ObjectAttributes.NO_DA)),
        {},
    ),
    "an HMAC key in the place of data": (
        *OBJECT,
        lambda: make_delivery(public=make_public(params=KeyedHashParams(Alg.HMAC, Alg.SHA256))),
        {},
    ),
    "an object whose Name is formed with SHA-1": (
        *OBJECT,
        lambda: make_delivery(public=make_public(name_alg=Alg.SHA1)),
        {},
    ),
    "an object with the policy of another epoch": (
        *OBJECT,
        lambda: make_delivery(public=make_public(COUNTER)),
        {},
    ),
    "an object with the policy of another device": (
        *OBJECT,
        lambda: make_delivery(
            public=make_public(
                auth_policy=fold(root_policy(POLICY_PUBLIC, OTHER.ek.name, COUNTER + 1))
            )
        ),
        {},
    ),
    "an object with no policy": (
        *OBJECT,
        lambda: make_delivery(public=make_public(auth_policy=b"")),
        {},
    ),
    "an object under another policy key": (
        *OBJECT,
        make_delivery,
        {"policy_key": policy_key_public(FOREIGN_KEY.public_key())},
    ),
    "60: an approval of an older epoch": (
        *APPROVAL,
        lambda: make_delivery(parts={"approval": make_approval(COUNTER)}),
        {},
    ),
    "an approval of a later epoch, signed for this one": (
        *APPROVAL,
        lambda: make_delivery(
            parts={"approval": make_approval(COUNTER + 5, for_epoch=COUNTER + 1)}
        ),
        {},
    ),
    "60: an approval of another device": (
        *APPROVAL,
        lambda: make_delivery(parts={"approval": make_approval(device=OTHER.ek.name)}),
        {},
    ),
    "60: an approval of another policy key": (
        *APPROVAL,
        lambda: make_delivery(parts={"approval": make_approval(key=FOREIGN_KEY)}),
        {},
    ),
    "an approval that was changed": (
        *APPROVAL,
        lambda: make_delivery(
            parts={"approval": msgspec.structs.replace(make_approval(), not_after=NOW * 2)}
        ),
        {},
    ),
    "66: an expired approval": (
        RootExpiredError,
        "root:expired",
        lambda: make_delivery(parts={"approval": make_approval(not_after=CLOCK)}),
        {},
    ),
    "the next root without an increment": (
        *APPROVAL,
        lambda: make_delivery(parts={"increments": ()}),
        {},
    ),
    "an increment from an older epoch": (
        *APPROVAL,
        lambda: make_delivery(parts={"increments": (make_increment(COUNTER - 1),)}),
        {},
    ),
    "an increment past the root that comes with it": (
        *APPROVAL,
        lambda: make_delivery(parts={"increments": (make_increment(COUNTER + 1),)}),
        {},
    ),
    "the leave to write a counter for the first time": (
        *APPROVAL,
        lambda: make_delivery(parts={"increments": (make_increment(None),)}),
        {},
    ),
    "an increment past the held root, offered again": (
        *APPROVAL,
        lambda: make_delivery(COUNTER, parts={"increments": (make_increment(COUNTER),)}),
        {},
    ),
    "an increment of another device": (
        *APPROVAL,
        lambda: make_delivery(parts={"increments": (make_increment(device=OTHER.ek.name),)}),
        {},
    ),
    "an increment of another policy key": (
        *APPROVAL,
        lambda: make_delivery(parts={"increments": (make_increment(key=FOREIGN_KEY),)}),
        {},
    ),
    "a public area that is cut short": (
        MalformedError,
        "wire:malformed",
        lambda: make_delivery(parts={"public": make_delivery().public[:-1]}),
        {},
    ),
    "a public area that something follows": (
        MalformedError,
        "wire:malformed",
        lambda: make_delivery(parts={"public": make_delivery().public + b"\0"}),
        {},
    ),
    "an approval that names no PCRs": (
        MalformedError,
        "wire:malformed",
        lambda: make_delivery(
            parts={"approval": msgspec.structs.replace(make_approval(), selection="")}
        ),
        {},
    ),
    "an approval with one branch, which no TPM runs": (
        MalformedError,
        "wire:malformed",
        lambda: make_delivery(
            parts={
                "approval": msgspec.structs.replace(
                    make_approval(), branches=make_approval().branches[:1]
                )
            }
        ),
        {},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_device_refuses(case: str) -> None:
    """Every rule of the module docstring has a root that breaks it alone."""
    error, code, make, changes = REFUSED[case]
    delivery = make()
    refusal(error, code, lambda: accept(delivery, changes))


def test_nothing_is_looked_at_before_the_signature() -> None:
    """A delivery that is wrong in every way is refused for its signature."""
    broken = make_delivery(
        key=FOREIGN_KEY,
        device=b"",
        release="2.0",
        parts={"public": b"", "increments": (), "approval": make_approval(key=FOREIGN_KEY)},
    )
    refusal(EnvelopeError, "wire:envelope:signature", lambda: accept(broken))


def test_an_accepted_root_cannot_be_made_otherwise() -> None:
    """The type carries the trust: neither making nor copying one gets around the rules."""
    root = accept(make_delivery())
    with pytest.raises(TypeError):
        AcceptedRoot(
            metadata=root.metadata,
            delivery=root.delivery,
            public=root.public,
            authorization=root.authorization,
            increments=root.increments,
            accepted=object(),
        )
    with pytest.raises((TypeError, ValueError)):
        replace(root, delivery=make_delivery(COUNTER))  # type: ignore[call-arg]


# --- roots on disk -----------------------------------------------------------------------


def reopen(delivery: RootDelivery, changes: Mapping[str, Any] = UNCHANGED) -> HeldRoot:
    """Check what a device kept of `delivery`."""
    expected: dict[str, Any] = {
        "metadata_key": METADATA_KEY.public_key(),
        "policy_key": POLICY_PUBLIC,
        "device": DEVICE,
    }
    return reopen_root(
        delivery.metadata, delivery.public, delivery.approval, **(expected | dict(changes))
    )


def test_a_kept_root_opens_as_the_accepted_one_does() -> None:
    """Reopening gives the same statement, whatever time it is."""
    delivery = make_delivery(not_after=0)
    held = reopen(delivery)
    assert held.metadata.epoch == COUNTER + 1
    assert held.public.encode_sized() == delivery.public
    assert held.authorization.approved == fold(delivery.approval.policy())
    assert held.authorization.ref == root_ref(DEVICE, COUNTER + 1)


REOPENING_REFUSED: dict[str, Case] = {
    case: REFUSED[case]
    for case in (
        "metadata signed by another key",
        "metadata that was changed",
        "another signed message in the place of metadata",
        "the root of another device",
        "81: another object than the metadata names",
        "an object that a password opens",
        "an object with the policy of another epoch",
        "an object under another policy key",
        "60: an approval of an older epoch",
        "an approval of a later epoch, signed for this one",
        "60: an approval of another device",
        "60: an approval of another policy key",
        "a public area that is cut short",
    )
}


@pytest.mark.parametrize("case", REOPENING_REFUSED)
def test_a_kept_root_is_refused_like_a_delivered_one(case: str) -> None:
    """Nobody guards the disk: what was changed there is found before the TPM is asked."""
    error, code, make, changes = REOPENING_REFUSED[case]
    delivery = make()
    refusal(error, code, lambda: reopen(delivery, changes))


def test_a_held_root_cannot_be_made_otherwise() -> None:
    """Only checking what is on disk gives a `HeldRoot`."""
    held = reopen(make_delivery())
    with pytest.raises(TypeError):
        HeldRoot(
            metadata=held.metadata,
            public=held.public,
            authorization=held.authorization,
            accepted=object(),
        )


# --- renewed approvals -------------------------------------------------------------------


def renew(approval: Approval) -> Authorize:
    """Accept a renewal for the root of epoch 7."""
    return accept_approval(
        approval, policy_key=POLICY_PUBLIC, device=DEVICE, epoch=COUNTER, clock_ms=CLOCK
    )


def test_a_renewed_approval_is_accepted() -> None:
    """A renewal needs the policy key's signature and no envelope."""
    approval = make_approval(COUNTER)
    statement = renew(approval)
    assert statement.approved == fold(approval.policy())
    assert statement.ref == root_ref(DEVICE, COUNTER)


RENEWAL_REFUSED: dict[str, tuple[type[HwTrustError], str, Callable[[], Approval]]] = {
    "60: for an older epoch": (*APPROVAL, lambda: make_approval(COUNTER - 1)),
    "for a later epoch, signed for this one": (
        *APPROVAL,
        lambda: make_approval(COUNTER + 5, for_epoch=COUNTER),
    ),
    "60: for another device": (*APPROVAL, lambda: make_approval(COUNTER, device=OTHER.ek.name)),
    "60: by another policy key": (*APPROVAL, lambda: make_approval(COUNTER, key=FOREIGN_KEY)),
    "66: that has expired": (
        RootExpiredError,
        "root:expired",
        lambda: make_approval(COUNTER, not_after=CLOCK),
    ),
    "whose state was changed": (
        *APPROVAL,
        lambda: msgspec.structs.replace(make_approval(COUNTER), selection="sha256:13"),
    ),
    "that is not signed": (
        *APPROVAL,
        lambda: msgspec.structs.replace(make_approval(COUNTER), signature=b""),
    ),
}


@pytest.mark.parametrize("case", RENEWAL_REFUSED)
def test_a_device_refuses_an_approval(case: str) -> None:
    """A renewal is for this root of this device, by the policy key, and good for something."""
    error, code, make = RENEWAL_REFUSED[case]
    approval = make()
    refusal(error, code, lambda: renew(approval))


# --- time ----------------------------------------------------------------------------------


def make_time(
    *,
    key: ec.EllipticCurvePrivateKey = METADATA_KEY,
    device: bytes = DEVICE,
    nonce: bytes = NONCE,
) -> Envelope:
    """A time as a backend signs it."""
    return seal(SignedTime(device=device, nonce=nonce, utc_ms=NOW), sign=signs(key))


def take_time(envelope: Envelope, *, nonce: bytes = NONCE) -> int:
    """Accept a time in answer to `nonce`."""
    return accept_time(envelope, metadata_key=METADATA_KEY.public_key(), device=DEVICE, nonce=nonce)


def test_a_signed_time_is_accepted() -> None:
    """The time is what the backend said, in milliseconds."""
    assert take_time(make_time()) == NOW


TIME_REFUSED: dict[str, tuple[type[HwTrustError], str, Callable[[], object]]] = {
    "by another key": (*ENVELOPE, lambda: take_time(make_time(key=FOREIGN_KEY))),
    "by the policy key": (*ENVELOPE, lambda: take_time(make_time(key=POLICY_KEY))),
    "for another device": (
        RootClockError,
        "root:clock:mismatch",
        lambda: take_time(make_time(device=OTHER.ek.name)),
    ),
    "in answer to an older challenge": (
        RootClockError,
        "root:clock:mismatch",
        lambda: take_time(make_time(nonce=b"an older challenge")),
    ),
    "in answer to nothing": (
        EmptyNonceError,
        "evidence:nonce:empty",
        lambda: take_time(make_time(nonce=b""), nonce=b""),
    ),
    "that is root metadata": (*ENVELOPE, lambda: take_time(make_delivery().metadata)),
}


@pytest.mark.parametrize("case", TIME_REFUSED)
def test_a_device_refuses_a_time(case: str) -> None:
    """A time moves the TPM's clock for good: it is fresh, and for this device."""
    error, code, call = TIME_REFUSED[case]
    refusal(error, code, call)
