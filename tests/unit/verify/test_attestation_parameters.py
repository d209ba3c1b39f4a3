"""A key that certifies its own creation is taken for what the TPM made, and nothing else is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.errors import (
    AttestTypeError,
    CertifiedNameError,
    HwTrustError,
    KeyAttributesError,
    MalformedError,
    SignatureError,
    SignerError,
    WeakKeyError,
    WireError,
)
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name, qualified_name_under
from hwtrust.verify.attestation_parameters import CreationClaims, verify_attestation_parameters
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.creation import CreationData
from hwtrust.wire.protect import make_credential
from hwtrust.wire.structures import CreationInfo, PcrSelection, QuoteInfo
from simulators.software_tpm import Signed, SoftwareTpm

if TYPE_CHECKING:
    from pathlib import Path

TPM = SoftwareTpm(seed=b"creation")
OTHER = SoftwareTpm(seed=b"another")
PARENT = qualified_name(TPM.storage.name, hierarchy=ENDORSEMENT)
CREATION = CreationData(
    selection=PcrSelection.parse("sha256:0"),
    pcr_digest=bytes(32),
    locality=1,
    parent_name_alg=Alg.SHA256,
    parent_name=TPM.storage.name,
    parent_qualified_name=PARENT,
    outside_info=b"outside",
)
SIGNER = qualified_name_under(TPM.ak.name, parent=PARENT)


def attested(
    name: bytes = TPM.ak.name, data: bytes = CREATION.encode(), signer: bytes = SIGNER
) -> Signed:
    """TPM2_CertifyCreation."""
    return TPM.attest(b"", CreationInfo(name, new_hash(Alg.SHA256, data)), signer=signer)


GOOD = attested()


def verify(signed: Signed = GOOD, **changes: Any) -> CreationClaims:  # noqa: ANN401
    """Verify as the good key is, but for `changes`."""
    arguments: dict[str, Any] = {
        "public": TPM.ak,
        "create_data": CREATION.encode(),
        "create_attestation": signed.message,
        "create_signature": signed.signature,
    }
    return verify_attestation_parameters(**(arguments | changes))


def test_a_key_and_its_creation_are_told() -> None:
    """As bytes or decoded; and a credential for its Name opens in its TPM alone."""
    claims = verify(public=TPM.ak.encode())
    assert (claims.public, claims.creation, claims.name) == (TPM.ak, CREATION, TPM.ak.name)
    credential = make_credential(TPM.ek, claims.name, b"secret")
    assert TPM.activate_credential(credential) == b"secret"
    with pytest.raises(HwTrustError):
        OTHER.activate_credential(credential)


def test_claims_are_made_here_alone() -> None:
    """Nobody else says that a creation was verified."""
    with pytest.raises(TypeError):
        msgspec.structs.replace(verify(), public=OTHER.ak)


def test_what_does_not_belong_to_the_key_is_refused() -> None:
    """Rule by rule."""
    with pytest.raises(SignatureError):
        verify(public=OTHER.ak)
    with pytest.raises(CertifiedNameError):
        verify(attested(name=OTHER.ak.name))
    other = msgspec.structs.replace(CREATION, locality=2).encode()
    changes: list[dict[str, Any]] = [{"signed": attested(data=other)}, {"create_data": other}]
    for changed in changes:
        with pytest.raises(CertifiedNameError) as refused:
            verify(**changed)
        assert refused.value.code == "evidence:name:mismatch"
    for signer in (TPM.ak_qualified_name, b""):
        with pytest.raises(SignerError):
            verify(attested(signer=signer))


def test_a_key_that_is_no_attestation_key_is_refused() -> None:
    """Adversaries 29, 30: one that signs anything could have signed this."""
    with pytest.raises(KeyAttributesError):
        verify(public=TPM.tls)
    with pytest.raises(KeyAttributesError):
        verify(public=TPM.storage)


def test_another_attestation_is_no_creation() -> None:
    """A quote, or a certified key, under the same key."""
    quote = TPM.attest(b"", QuoteInfo(PcrSelection.parse("sha256:0"), bytes(32)), signer=SIGNER)
    for signed in (quote, TPM.certify(TPM.ak, b"")):
        with pytest.raises(AttestTypeError):
            verify(signed)


def test_creation_data_that_are_none_are_refused() -> None:
    """Cut at every byte, or followed by something."""
    raw = CREATION.encode()
    assert CreationData.decode(raw) == CREATION
    for data in [raw[:end] for end in range(len(raw))]:
        with pytest.raises(MalformedError):
            CreationData.decode(data)
    with pytest.raises(MalformedError):
        CreationData.decode(raw + b"\0")
    with pytest.raises(MalformedError):
        verify(public=b"")


# --- real ones ----------------------------------------------------------------------

REAL = ["ak-infineon-rsa", "ak-gce-ecc", "ak-windows-gcp"]
PARTS = ("public", "create_data", "create_attestation", "create_signature")


def real(vectors: Path, name: str) -> dict[str, Any]:
    """The arguments for one of go-attestation's keys."""
    case = json.loads((vectors / "tpm-structs/go-attestation" / f"{name}.json").read_bytes())
    return {part: bytes.fromhex(case[part]) for part in PARTS}


@pytest.mark.parametrize("name", REAL)
def test_the_keys_of_go_attestation_verify(vectors: Path, name: str) -> None:
    """Of an Infineon TPM, a Google vTPM and a Windows machine; all of them sign over SHA-1."""
    parts = real(vectors, name)
    claims = verify_attestation_parameters(**parts, unsafe_allow_sha1=True)
    assert claims.creation.encode() == parts["create_data"]
    with pytest.raises(KeyAttributesError):
        verify_attestation_parameters(**parts)


@pytest.mark.parametrize("name", REAL)
def test_the_keys_of_go_attestation_are_refused_with_a_bit_changed(
    vectors: Path, name: str
) -> None:
    """In any of the four parts; a sample of each."""
    parts = real(vectors, name)
    for part, data in parts.items():
        for bit in range(0, len(data) * 8, 7):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(HwTrustError):
                verify_attestation_parameters(
                    **(parts | {part: bytes(changed)}), unsafe_allow_sha1=True
                )


def test_the_parts_of_two_keys_do_not_mix(vectors: Path) -> None:
    """Each part of one beside the other three of another."""
    one, other = (real(vectors, name) for name in ("ak-infineon-rsa", "ak-windows-gcp"))
    for part in PARTS:
        with pytest.raises(HwTrustError):
            verify_attestation_parameters(**(one | {part: other[part]}), unsafe_allow_sha1=True)


def test_a_key_on_a_weak_curve_is_refused(vectors: Path) -> None:
    """As upstream's own test has it: P-224."""
    file = vectors / "tpm-structs/go-attestation/ak-insecure-curve.json"
    parts = real(vectors, "ak-gce-ecc") | {
        "public": bytes.fromhex(json.loads(file.read_bytes())["public"])
    }
    with pytest.raises(WeakKeyError):
        verify_attestation_parameters(**parts, unsafe_allow_sha1=True)
    file = vectors / "tpm-structs/go-attestation/parser-bugs.json"
    bug = bytes.fromhex(json.loads(file.read_bytes())[0]["bytes"])
    with pytest.raises((KeyAttributesError, WireError)):
        verify_attestation_parameters(**(parts | {"public": bug}), unsafe_allow_sha1=True)
