"""The rules by which an enclave accepts a root: each has a root that only it refuses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hwtrust.enclave.roots import NO_EPOCH, AcceptedRoot, accept_root
from hwtrust.errors import (
    EnvelopeError,
    MalformedError,
    RootDeviceError,
    RootEpochError,
    RootObjectError,
    RootReleaseError,
    RootTimeError,
)
from hwtrust.wire.enclave import EnclaveRoot, EnclaveRootMetadata, open_root, seal_root
from hwtrust.wire.envelope import seal
from hwtrust.wire.messages import SignedTime

if TYPE_CHECKING:
    from hwtrust.errors import HwTrustError

KEY: Final = ec.generate_private_key(ec.SECP256R1())
RELEASE_KEY: Final = X25519PrivateKey.generate()
PUBLIC: Final = RELEASE_KEY.public_key().public_bytes_raw()
NOW: Final = 1_800_000_000_000
GOOD: Final = EnclaveRootMetadata(
    device=b"enclave",
    epoch=5,
    release="1.0",
    not_before=NOW,
    not_after=NOW + 1,
    release_key=PUBLIC,
)


def sign(key: ec.EllipticCurvePrivateKey, message: msgspec.Struct) -> EnclaveRoot:
    """A root whose metadata `key` has signed."""
    envelope = seal(message, sign=lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))
    sealed = seal_root(os.urandom(32), release_key=PUBLIC, metadata=envelope)
    return EnclaveRoot(metadata=envelope, sealed=sealed)


def root(**changes: Any) -> EnclaveRoot:  # noqa: ANN401
    """A good one with one change."""
    return sign(KEY, msgspec.structs.replace(GOOD, **changes))


def accept(delivery: EnclaveRoot, *, held: int = 4) -> AcceptedRoot:
    """By an enclave that holds the root before."""
    return accept_root(
        delivery,
        metadata_key=KEY.public_key(),
        device=b"enclave",
        release_key=PUBLIC,
        held=held,
        release="1.0",
        now_ms=NOW,
    )


REFUSED: dict[str, tuple[EnclaveRoot, type[HwTrustError]]] = {
    "(1) signed by another key": (
        sign(ec.generate_private_key(ec.SECP256R1()), GOOD),
        EnvelopeError,
    ),
    "(1) another message of that key": (
        sign(KEY, SignedTime(device=b"enclave", nonce=b"n", utc_ms=1)),
        EnvelopeError,
    ),
    "(2) for another device": (root(device=b"another"), RootDeviceError),
    "(3) sealed to another key": (root(release_key=bytes(32)), RootDeviceError),
    "(3) sealed to a shorter key": (root(release_key=b""), RootDeviceError),
    "(4) of the held epoch": (root(epoch=4), RootEpochError),
    "(4) of an older epoch": (root(epoch=3), RootEpochError),
    "(5) for another release": (root(release="2.0"), RootReleaseError),
    "(6) not valid yet": (root(not_before=NOW + 1, not_after=NOW + 2), RootTimeError),
    "(6) not valid any more": (root(not_before=NOW - 1, not_after=NOW), RootTimeError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_root_that_breaks_a_rule_is_refused(case: str) -> None:
    """One defect each, in roots that are good otherwise."""
    delivery, error = REFUSED[case]
    with pytest.raises(error) as caught:
        accept(delivery)
    assert caught.type is error


ACCEPTED = {"the next": (4, 5), "one epoch is left out": (3, 5), "it holds none": (NO_EPOCH, 5)}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_good_root_is_accepted(case: str) -> None:
    """Its epoch is above the held one."""
    held, epoch = ACCEPTED[case]
    assert accept(root(epoch=epoch), held=held).metadata.epoch == epoch


@pytest.mark.parametrize("epoch", [0, -1])
def test_no_epoch_is_none(epoch: int) -> None:
    """What says that an enclave has no root is no root's number."""
    with pytest.raises(RootEpochError):
        accept(root(epoch=epoch), held=NO_EPOCH)


def test_signed_metadata_of_another_form_is_refused() -> None:
    """A signature alone does not make a root."""
    odd = msgspec.defstruct("EnclaveRootMetadata", [("device", int)], frozen=True)
    with pytest.raises(MalformedError):
        accept(sign(KEY, odd(1)))


def test_only_the_rules_make_accepted_roots() -> None:
    """Who needs one has to ask them."""
    with pytest.raises(TypeError):
        AcceptedRoot(metadata=GOOD, delivery=root(), accepted=object())


def test_a_root_opens_for_its_key_and_metadata_alone() -> None:
    """HPKE binds both: the bytes of one epoch are not those of another."""
    one, other = root(), root(epoch=6)
    assert len(open_root(one.sealed, key=RELEASE_KEY, metadata=one.metadata)) == 32
    with pytest.raises(RootObjectError):
        open_root(one.sealed, key=RELEASE_KEY, metadata=other.metadata)
    with pytest.raises(RootObjectError):
        open_root(one.sealed, key=X25519PrivateKey.generate(), metadata=one.metadata)
