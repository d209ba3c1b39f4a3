"""Approvals and increments: what the policy key signs, for one device and one epoch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from hwtrust.errors import HwTrustError, MalformedError, RootApprovalError, WeakKeyError
from hwtrust.verify.roles import require_attestation_key
from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.policy import approval_digest, fold
from hwtrust.wire.root import (
    Approval,
    Branch,
    Increment,
    authorization,
    counter_policy,
    increment_ref,
    policy_key_public,
    root_policy,
    root_ref,
    sign_approval,
)
from hwtrust.wire.structures import EccParams, ObjectAttributes, Public, Signature
from simulators.software_tpm import AK_ATTRIBUTES, rsa_public

if TYPE_CHECKING:
    from collections.abc import Callable

KEY: Final = ec.generate_private_key(ec.SECP256R1())
FOREIGN_KEY: Final = ec.generate_private_key(ec.SECP256R1())
PUBLIC: Final = policy_key_public(KEY.public_key())
DEVICE: Final = b"\x00\x0b" + bytes(range(32))
OTHER: Final = b"\x00\x0b" + bytes(range(1, 33))
COUNTER: Final = b"\x00\x0b" + bytes(32)
A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))

APPROVAL: Final = Approval(
    epoch=7,
    selection="sha256:0,12",
    branches=(Branch(label="cold", pcr_digest=A), Branch(label="live", pcr_digest=B)),
    counter_name=COUNTER,
    not_after=1_800_000_000_000,
)
INCREMENT: Final = Increment(epoch=7, counter_name=COUNTER)


def sign_digest(digest: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """A DER signature of a SHA-256 digest."""
    return key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


SIGNED: Final = sign_approval(APPROVAL, root_ref(DEVICE, 7), sign_digest=sign_digest)
SIGNED_INCREMENT: Final = sign_approval(INCREMENT, increment_ref(DEVICE), sign_digest=sign_digest)


def test_a_signed_approval_becomes_the_statement_that_runs() -> None:
    """The statement holds what TPM2_VerifySignature and TPM2_PolicyAuthorize take."""
    statement = authorization(SIGNED, root_ref(DEVICE, 7), policy_key=PUBLIC)
    assert statement.key_name == PUBLIC.name
    assert statement.ref == root_ref(DEVICE, 7)
    assert statement.approved == fold(APPROVAL.policy())
    signature = Signature.decode(statement.signature)
    assert (signature.alg, signature.hash) == (Alg.ECDSA, Alg.SHA256)
    assert signature == Signature.from_der_ecdsa(SIGNED.signature, Alg.SHA256)


def test_the_statement_of_a_recipe_folds_to_the_object_it_is_for() -> None:
    """Recipe and statement together are the authPolicy, whatever the recipe says."""
    for recipe, ref, policy in (
        (SIGNED, root_ref(DEVICE, 7), root_policy(PUBLIC, DEVICE, 7)),
        (SIGNED_INCREMENT, increment_ref(DEVICE), counter_policy(PUBLIC, DEVICE)),
    ):
        statement = authorization(recipe, ref, policy_key=PUBLIC)
        assert fold((*recipe.policy(), statement)) == fold(policy)


def test_signing_changes_nothing_but_the_signature() -> None:
    """What is signed is the recipe that was given."""
    assert msgspec.structs.replace(SIGNED, signature=b"") == APPROVAL
    assert msgspec.structs.replace(SIGNED_INCREMENT, signature=b"") == INCREMENT


def test_recipes_travel_as_json() -> None:
    """A recipe that was sent still verifies."""
    received = msgspec.json.decode(msgspec.json.encode(SIGNED), type=Approval)
    assert received == SIGNED
    authorization(received, root_ref(DEVICE, 7), policy_key=PUBLIC)


def test_the_branch_of_a_state_is_found_by_its_digest() -> None:
    """A device runs the branch that holds, and knows when there is none."""
    assert [APPROVAL.branch_for(digest) for digest in (A, B, C)] == [0, 1, None]


CHANGES: dict[str, Callable[[], Approval]] = {
    "another epoch": lambda: msgspec.structs.replace(SIGNED, epoch=8),
    "another PCR": lambda: msgspec.structs.replace(SIGNED, selection="sha256:0,13"),
    "another bank": lambda: msgspec.structs.replace(SIGNED, selection="sha1:0,12"),
    "another counter": lambda: msgspec.structs.replace(SIGNED, counter_name=COUNTER + b"\0"),
    "a later expiry": lambda: msgspec.structs.replace(SIGNED, not_after=2**63),
    "another state": lambda: msgspec.structs.replace(
        SIGNED, branches=(Branch(label="cold", pcr_digest=C), SIGNED.branches[1])
    ),
    "one state more": lambda: msgspec.structs.replace(
        SIGNED, branches=(*SIGNED.branches, Branch(label="more", pcr_digest=C))
    ),
    "states in another order": lambda: msgspec.structs.replace(
        SIGNED, branches=SIGNED.branches[::-1]
    ),
    "bytes moved from one state to the next": lambda: msgspec.structs.replace(
        SIGNED,
        branches=(
            Branch(label="cold", pcr_digest=A + B[:1]),
            Branch(label="live", pcr_digest=B[1:]),
        ),
    ),
    "no signature": lambda: APPROVAL,
    "a signature that is no DER": lambda: msgspec.structs.replace(SIGNED, signature=bytes(70)),
    "a signature by another key": lambda: sign_approval(
        APPROVAL,
        root_ref(DEVICE, 7),
        sign_digest=lambda digest: sign_digest(digest, FOREIGN_KEY),
    ),
    "a signature over the digest without its reference": lambda: msgspec.structs.replace(
        APPROVAL, signature=sign_digest(fold(APPROVAL.policy()))
    ),
    "a signature for another device": lambda: sign_approval(
        APPROVAL, root_ref(OTHER, 7), sign_digest=sign_digest
    ),
    "a signature for another epoch": lambda: sign_approval(
        APPROVAL, root_ref(DEVICE, 8), sign_digest=sign_digest
    ),
    "a signature for a counter": lambda: sign_approval(
        APPROVAL, increment_ref(DEVICE), sign_digest=sign_digest
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_approval_is_refused_with(case: str) -> None:
    """60: no field of an approval can be changed, and none is for anything else."""
    with pytest.raises(RootApprovalError) as caught:
        authorization(CHANGES[case](), root_ref(DEVICE, 7), policy_key=PUBLIC)
    assert caught.value.code == "root:approval:invalid"


INCREMENT_CHANGES: dict[str, Callable[[], Increment]] = {
    "another epoch": lambda: msgspec.structs.replace(SIGNED_INCREMENT, epoch=8),
    "no epoch": lambda: msgspec.structs.replace(SIGNED_INCREMENT, epoch=None),
    "another counter": lambda: msgspec.structs.replace(SIGNED_INCREMENT, counter_name=b""),
    "a signature for another device": lambda: sign_approval(
        INCREMENT, increment_ref(OTHER), sign_digest=sign_digest
    ),
    "a signature for a root": lambda: sign_approval(
        INCREMENT, root_ref(DEVICE, 7), sign_digest=sign_digest
    ),
}


@pytest.mark.parametrize("case", INCREMENT_CHANGES)
def test_an_increment_is_refused_with(case: str) -> None:
    """The leave to revoke is for one value of one device's counter."""
    with pytest.raises(RootApprovalError) as caught:
        authorization(INCREMENT_CHANGES[case](), increment_ref(DEVICE), policy_key=PUBLIC)
    assert caught.value.code == "root:approval:invalid"


MALFORMED: dict[str, Approval] = {
    "no PCR selection": msgspec.structs.replace(SIGNED, selection="12"),
    "no branch": msgspec.structs.replace(SIGNED, branches=()),
    "an epoch below zero": msgspec.structs.replace(SIGNED, epoch=-1),
    "an epoch that no counter reaches": msgspec.structs.replace(SIGNED, epoch=2**64),
    "an expiry that no clock reaches": msgspec.structs.replace(SIGNED, not_after=2**64),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_an_approval_is_malformed_with(case: str) -> None:
    """Fields from outside end in a typed error before anything is folded of them."""
    with pytest.raises(MalformedError) as caught:
        authorization(MALFORMED[case], root_ref(DEVICE, 7), policy_key=PUBLIC)
    assert caught.value.code == "wire:malformed"


def test_every_object_has_a_reference_of_its_own() -> None:
    """No reference of one device or epoch is that of another, or of a counter."""
    refs = [
        *(root_ref(device, epoch) for device in (DEVICE, OTHER) for epoch in range(4)),
        *(increment_ref(device) for device in (DEVICE, OTHER)),
    ]
    assert len(set(refs)) == len(refs)
    assert root_ref(DEVICE, 7) == hashlib.sha256(b"root" + DEVICE + (7).to_bytes(8)).digest()
    assert increment_ref(DEVICE) == hashlib.sha256(b"inc" + DEVICE).digest()


def test_what_the_policy_key_signs_is_what_a_tpm_verifies() -> None:
    """The signed aHash is H(approvedPolicy || policyRef), TPM 2.0 Part 3 §23.16."""
    assert approval_digest(A, B) == hashlib.sha256(A + B).digest()


# --- the policy key ----------------------------------------------------------------


def test_a_policy_key_verifies_and_is_nothing_else() -> None:
    """Its public area is fixed, so that its Name is the same for everybody."""
    assert PUBLIC.attributes == ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.SIGN
    assert isinstance(PUBLIC.params, EccParams)
    assert (PUBLIC.params.scheme, PUBLIC.params.scheme_hash) == (Alg.ECDSA, Alg.SHA256)
    assert PUBLIC.params.curve is Curve.P256
    assert PUBLIC.key() == KEY.public_key()
    assert Public.decode(PUBLIC.encode()) == PUBLIC
    with pytest.raises(HwTrustError):
        require_attestation_key(PUBLIC)


def test_a_policy_key_on_another_curve_is_refused() -> None:
    """Devices load the policy key as a key on P-256; no other can be named."""
    with pytest.raises(WeakKeyError) as caught:
        policy_key_public(ec.generate_private_key(ec.SECP384R1()).public_key())
    assert caught.value.code == "evidence:key:weak"


def test_an_rsa_key_is_no_policy_key() -> None:
    """A recipe is checked under an EC key or not at all."""
    key = rsa_public(rsa.generate_private_key(65537, 2048), AK_ATTRIBUTES)
    with pytest.raises(WeakKeyError) as caught:
        authorization(SIGNED, root_ref(DEVICE, 7), policy_key=key)
    assert caught.value.code == "evidence:key:weak"
