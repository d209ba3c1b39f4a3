"""The dynamic root as it travels: metadata, approvals, and the policies they stand for.

    sealed object  ── authPolicy ──▶ PolicyAuthorize(policy key, root_ref(EK, E))
    approval       ── signs ───────▶ PCR branch · counter <= E · clock < not_after
    epoch counter  ── authPolicy ──▶ PolicyAuthorize(policy key, increment_ref(EK))
    increment      ── signs ───────▶ counter == E · TPM2_NV_Increment

Rules:
1. The reference holds the device and, for a root, the epoch: an approval opens
   one device's root of one epoch and nothing else.
2. An approval needs no envelope. Its fields are a recipe; if one is changed the
   recipe folds to another digest, which the policy key has not signed.
3. The counter condition of a root is `<=`, so that the next root opens before
   the counter moves; that of an increment is `==`, so that it works once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from hwtrust.errors import RootApprovalError, WeakKeyError
from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.codec import u64
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.policy import (
    CLOCK_OFFSET,
    NV_INCREMENT,
    AnyOf,
    Authorize,
    CommandCode,
    Comparison,
    CounterTimer,
    Nv,
    NvWritten,
    Pcr,
    Policy,
    approval_digest,
    fold,
)
from hwtrust.wire.structures import (
    NO_SYMMETRIC,
    EccParams,
    EccPoint,
    ObjectAttributes,
    PcrSelection,
    Public,
    Signature,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class RootMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend says of a root, under its metadata key. Times are UTC milliseconds."""

    device: bytes
    epoch: int
    release: str
    not_before: int
    not_after: int
    object_name: bytes
    storage_key: bytes
    """The Name of the storage key that the object is wrapped for."""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """One measured state that is approved: the digest that TPM2_PolicyPCR compares."""

    label: str
    pcr_digest: bytes


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What opens a root: a recipe whose folded digest the policy key has signed.

    `not_after` is in the device's own TPM clock, in milliseconds. `signature` is
    the policy key's DER ECDSA signature over SHA-256 of digest and reference.
    """

    epoch: int
    selection: str
    branches: tuple[Branch, ...]
    counter_name: bytes
    not_after: int
    signature: bytes = b""

    def policy(self, *, branch: int | None = None) -> Policy:
        """The recipe; to be run it needs the number of the branch to satisfy."""
        return (*self.standing(branch=branch), self.deadline())

    def standing(self, *, branch: int | None = None) -> Policy:
        """The beginning of the recipe, in which there is no time."""
        selection = PcrSelection.parse(self.selection)
        states = tuple((Pcr(selection, item.pcr_digest),) for item in self.branches)
        return (
            AnyOf(states, branch),
            Nv(self.counter_name, u64(self.epoch), Comparison.UNSIGNED_LE),
        )

    def deadline(self) -> CounterTimer:
        """The end of the recipe: until when."""
        return CounterTimer(u64(self.not_after), CLOCK_OFFSET, Comparison.UNSIGNED_LT)

    def branch_for(self, pcr_digest: bytes) -> int | None:
        """Which branch a PCR digest satisfies, if any."""
        for number, branch in enumerate(self.branches):
            if branch.pcr_digest == pcr_digest:
                return number
        return None


class Increment(msgspec.Struct, frozen=True, kw_only=True):
    """Leave to count the epoch counter up once, from `epoch`; from undefined where it is None."""

    epoch: int | None
    counter_name: bytes
    signature: bytes = b""

    def policy(self) -> Policy:
        """The recipe."""
        if self.epoch is None:
            return (NvWritten(written=False), CommandCode(NV_INCREMENT))
        condition = Nv(self.counter_name, u64(self.epoch), Comparison.EQ)
        return (condition, CommandCode(NV_INCREMENT))


class RootDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A root for one TPM, in one message: TPM2_Import's parameters and what goes with them.

    `public` is a TPM2B_PUBLIC, `duplicate` a TPM2B_PRIVATE's content, `seed` a
    TPM2B_ENCRYPTED_SECRET's content. `increments` revoke the previous roots, one
    for each epoch from the counter's to the one before this root's.
    """

    metadata: Envelope
    public: bytes
    duplicate: bytes
    seed: bytes
    approval: Approval
    increments: tuple[Increment, ...] = ()


Recipe = TypeVar("Recipe", Approval, Increment)


def root_ref(device: bytes, epoch: int) -> bytes:
    """The policyRef of the root of `epoch` on the device whose EK Name is `device`."""
    return hashlib.sha256(b"root" + device + u64(epoch)).digest()


def increment_ref(device: bytes) -> bytes:
    """The policyRef of the epoch counter of the device whose EK Name is `device`."""
    return hashlib.sha256(b"inc" + device).digest()


def root_policy(policy_key: Public, device: bytes, epoch: int) -> Policy:
    """The authPolicy of a root's sealed object."""
    return (Authorize(policy_key.name, root_ref(device, epoch)),)


def counter_policy(policy_key: Public, device: bytes) -> Policy:
    """The authPolicy of the epoch counter."""
    return (Authorize(policy_key.name, increment_ref(device)),)


def policy_key_public(key: ec.EllipticCurvePublicKey) -> Public:
    """The TPMT_PUBLIC under which devices load the policy key, and so its Name.

    Raises:
        WeakKeyError: not a key on P-256.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise WeakKeyError("the policy key is a key on P-256", curve=key.curve.name)
    numbers = key.public_numbers()
    return Public(
        type=Alg.ECC,
        name_alg=Alg.SHA256,
        attributes=ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.SIGN,
        auth_policy=b"",
        params=EccParams(
            symmetric=NO_SYMMETRIC,
            scheme=Alg.ECDSA,
            scheme_hash=Alg.SHA256,
            curve=Curve.P256,
        ),
        unique=EccPoint(numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")),
    )


def sign_approval(recipe: Recipe, ref: bytes, *, sign_digest: Callable[[bytes], bytes]) -> Recipe:
    """The recipe with the policy key's signature; `sign_digest` signs a SHA-256 digest, DER."""
    digest = approval_digest(fold(recipe.policy()), ref)
    return msgspec.structs.replace(recipe, signature=sign_digest(digest))


def authorization(recipe: Approval | Increment, ref: bytes, *, policy_key: Public) -> Authorize:
    """Check a recipe's signature and make the statement that a TPM runs for it.

    Raises:
        RootApprovalError: not signed by the policy key for this reference.
        MalformedError, UnsupportedError: the recipe is no policy.
    """
    approved = fold(recipe.policy())
    key = policy_key.key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise WeakKeyError("the policy key is a key on P-256")
    prehashed = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    try:
        key.verify(recipe.signature, approval_digest(approved, ref), prehashed)
    except InvalidSignature:
        message = "the approval is not signed by the policy key for this device and epoch"
        raise RootApprovalError(message) from None
    signature = Signature.from_der_ecdsa(recipe.signature, Alg.SHA256)
    return Authorize(policy_key.name, ref, approved, signature.encode())
