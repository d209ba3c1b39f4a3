"""Certified objects and indices: exactly the Name that is expected, by the one attestation key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import (
    AttestTypeError,
    CertifiedNameError,
    EmptyNonceError,
    KeyAttributesError,
    SignatureAlgorithmError,
    SignatureError,
    SignerError,
    StaleQuoteError,
)
from hwtrust.verify.attestation import OWNER, Unsafe, authenticated, qualified_name, read
from hwtrust.verify.certify import (
    CertifyClaims,
    NvClaims,
    verify_certify,
    verify_nv_certify,
)
from hwtrust.verify.roles import require_storage_key
from hwtrust.verify.signature import run
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.structures import (
    Attest,
    CreationInfo,
    NvAttributes,
    Public,
    Signature,
)
from simulators.software_tpm import Signed, SoftwareTpm, counter_public

NONCE = bytes(range(32))
TPM = SoftwareTpm(seed=b"test_certify")
OTHER = SoftwareTpm(seed=b"another device")
COUNTER = counter_public(bytes(range(32)))
CONTENTS = (7).to_bytes(8, "big")
CERTIFIED = TPM.certify(TPM.storage, NONCE)
NV_CERTIFIED = TPM.nv_certify(COUNTER, CONTENTS, NONCE)


def certify(signed: Signed = CERTIFIED, **changes: Any) -> CertifyClaims:  # noqa: ANN401
    """Verify as the good one is, but for `changes`."""
    arguments: dict[str, Any] = {
        "key": TPM.ak,
        "nonce": NONCE,
        "name": TPM.storage.name,
        "signer": TPM.ak_qualified_name,
    }
    return verify_certify(signed.message, signed.signature, **(arguments | changes))


def nv_certify(signed: Signed = NV_CERTIFIED, **changes: Any) -> NvClaims:  # noqa: ANN401
    """Verify as the good one is, but for `changes`."""
    arguments: dict[str, Any] = {
        "key": TPM.ak,
        "nonce": NONCE,
        "index_name": COUNTER.name,
        "size": 8,
        "signer": TPM.ak_qualified_name,
    }
    return verify_nv_certify(signed.message, signed.signature, **(arguments | changes))


def test_a_certified_object_gives_its_names() -> None:
    """And when that was, by the TPM's clock."""
    claims = certify()
    assert claims.name == TPM.storage.name
    assert claims.qualified_name == qualified_name(TPM.storage.name, hierarchy=OWNER)
    assert (claims.nonce, claims.clock) == (NONCE, TPM.clock)


def test_a_certified_counter_gives_its_value() -> None:
    """Contents as bytes and as a number."""
    claims = nv_certify()
    assert (claims.index_name, claims.contents, claims.value) == (COUNTER.name, CONTENTS, 7)
    assert (claims.nonce, claims.clock) == (NONCE, TPM.clock)


both = pytest.mark.parametrize(
    ("check", "good"),
    [(certify, CERTIFIED), (nv_certify, NV_CERTIFIED)],
    ids=["object", "index"],
)


@both
def test_the_attestation_of_another_tpm_is_refused(check: Any, good: Signed) -> None:  # noqa: ANN401
    """Adversary 40: a good storage key, certified by an AK that is not this device's."""
    attested = Attest.decode(good.message).attested
    with pytest.raises(SignatureError) as refused:
        check(OTHER.attest(NONCE, attested, signer=TPM.ak_qualified_name))
    assert refused.value.code == "evidence:signature:invalid"


@both
def test_another_signer_is_refused(check: Any, good: Signed) -> None:  # noqa: ANN401
    """Adversary 32: the signature verifies, the key is another object."""
    attested = Attest.decode(good.message).attested
    for signer in (OTHER.ak_qualified_name, TPM.ak.name, b""):
        with pytest.raises(SignerError) as refused:
            check(TPM.attest(NONCE, attested, signer=signer))
        assert refused.value.code == "evidence:signer:mismatch"


@both
def test_another_nonce_is_refused(check: Any, good: Signed) -> None:  # noqa: ANN401
    """An old attestation says nothing about now, and none is not a match for none."""
    attested = Attest.decode(good.message).attested
    with pytest.raises(StaleQuoteError) as refused:
        check(TPM.attest(bytes(32), attested))
    assert refused.value.code == "evidence:nonce:mismatch"
    with pytest.raises(EmptyNonceError) as refused_empty:
        check(TPM.attest(b"", attested), nonce=b"")
    assert refused_empty.value.code == "evidence:nonce:empty"


@both
def test_going_without_a_check_is_spelled_out(check: Any, good: Signed) -> None:  # noqa: ANN401
    """For nonce and signer."""
    attested = Attest.decode(good.message).attested
    other = TPM.attest(bytes(32), attested, signer=OTHER.ak_qualified_name)
    claims = check(other, nonce=Unsafe.NO_NONCE, signer=Unsafe.ANY_SIGNER)
    assert (claims.nonce, claims.qualified_signer) == (bytes(32), OTHER.ak_qualified_name)


def test_one_type_does_not_pass_for_another() -> None:
    """Adversary 2: object, index and creation each stand for themselves."""
    creation = TPM.attest(NONCE, CreationInfo(TPM.storage.name, bytes(32)))
    for check, signed in (
        (certify, NV_CERTIFIED),
        (certify, creation),
        (nv_certify, CERTIFIED),
        (nv_certify, creation),
    ):
        with pytest.raises(AttestTypeError) as refused:
            check(signed)
        assert refused.value.code == "evidence:type:mismatch"


@pytest.mark.parametrize("name", [TPM.tls.name, TPM.ak.name, TPM.storage.name[:-1], b""])
def test_another_object_is_refused(name: bytes) -> None:
    """Adversary 40: the TLS key is no storage key, and nothing is no match for nothing."""
    with pytest.raises(CertifiedNameError) as refused:
        certify(name=name)
    assert refused.value.code == "evidence:name:mismatch"
    with pytest.raises(CertifiedNameError) as refused:
        certify(TPM.certify(TPM.storage, NONCE, name=name))
    assert refused.value.code == "evidence:name:mismatch"
    with pytest.raises(CertifiedNameError) as refused:
        certify(TPM.certify(TPM.storage, NONCE, name=b""), name=b"")
    assert refused.value.code == "evidence:name:mismatch"


def test_a_certified_key_that_is_no_storage_key_is_refused() -> None:
    """Adversary 40: certified by the right AK, and still not fit for the role."""
    claims = certify(TPM.certify(TPM.tls, NONCE), name=TPM.tls.name)
    assert claims.name == TPM.tls.name
    with pytest.raises(KeyAttributesError) as refused:
        require_storage_key(TPM.tls)
    assert refused.value.code == "key:attributes"


OTHER_COUNTERS = {
    "another index": replace(COUNTER, index=COUNTER.index + 1),
    "with AUTHWRITE": replace(COUNTER, attributes=COUNTER.attributes | NvAttributes.AUTHWRITE),
    "with ORDERLY": replace(COUNTER, attributes=COUNTER.attributes | NvAttributes.ORDERLY),
    "under another policy": replace(COUNTER, auth_policy=bytes(32)),
    "not yet written": replace(COUNTER, attributes=COUNTER.attributes & ~NvAttributes.WRITTEN),
}


@pytest.mark.parametrize("counter", OTHER_COUNTERS.values(), ids=OTHER_COUNTERS)
def test_another_index_is_refused(counter: Any) -> None:  # noqa: ANN401
    """Adversary 41: a counter with another Name is another counter."""
    with pytest.raises(CertifiedNameError) as refused:
        nv_certify(TPM.nv_certify(counter, CONTENTS, NONCE))
    assert refused.value.code == "evidence:name:mismatch"


PARTS = {
    "from offset 1": (CONTENTS[1:], 1),
    "the whole, but from offset 1": (CONTENTS, 1),
    "a byte short": (CONTENTS[:-1], 0),
    "a byte more": (CONTENTS + b"\0", 0),
    "nothing": (b"", 0),
}


@pytest.mark.parametrize(("contents", "offset"), PARTS.values(), ids=PARTS)
def test_a_part_of_an_index_is_refused(contents: bytes, offset: int) -> None:
    """Adversary 41: the low bytes of a large count look like a small one."""
    with pytest.raises(CertifiedNameError) as refused:
        nv_certify(TPM.nv_certify(COUNTER, contents, NONCE, offset=offset))
    assert refused.value.code == "evidence:name:mismatch"


def test_only_the_verifier_makes_claims() -> None:
    """Who holds claims holds proof that they were verified."""
    fields: dict[str, Any] = {
        "nonce": NONCE,
        "qualified_signer": b"",
        "clock": TPM.clock,
        "firmware_version": 0,
    }
    with pytest.raises(TypeError):
        CertifyClaims(**fields, name=b"", qualified_name=b"", verified=None)
    with pytest.raises(TypeError):
        NvClaims(**fields, index_name=b"", contents=b"", verified=None)


# --- real ones ----------------------------------------------------------------------

MACHINES = ["dell-xps-13", "lenovo-carbon-x1", "surface-pro-4", "tpm-with-ecc-public-area-type"]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_key_certified_by_a_windows_machine_verifies(vectors: Path, machine: str) -> None:
    """WebAuthn: TPM2_Certify by an attestation key with a certificate of Microsoft's."""
    case = json.loads((vectors / "tpm-structs" / "webauthn" / f"{machine}.json").read_text())
    certificate = x509.load_pem_x509_certificate(
        (vectors / "tpm-structs" / case["aik_certificate"]).read_bytes()
    )
    hash_ = {-65535: Alg.SHA1, -257: Alg.SHA256, -7: Alg.SHA256}[case["cose_alg"]]
    client_data = new_hash(Alg.SHA256, bytes.fromhex(case["clientDataJSON"]))
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    arguments: dict[str, Any] = {
        "key": key,
        "nonce": new_hash(hash_, bytes.fromhex(case["authData"]) + client_data),
        "name": Public.decode(bytes.fromhex(case["pubArea (TPMT_PUBLIC)"])).name,
        "signer": Unsafe.ANY_SIGNER,
    }
    message = bytes.fromhex(case["certInfo (TPMS_ATTEST)"])
    signature = Signature.from_raw_rsa(bytes.fromhex(case["sig"]), hash_)
    claims = verify_certify(message, signature, **arguments, unsafe_allow_sha1=True)
    assert claims.name == arguments["name"]
    with pytest.raises(StaleQuoteError):
        verify_certify(
            message, signature, **(arguments | {"nonce": b"another"}), unsafe_allow_sha1=True
        )
    if hash_ is Alg.SHA1:
        with pytest.raises(SignatureAlgorithmError):
            verify_certify(message, signature, **arguments)


@pytest.mark.parametrize("name", ["ak-infineon-rsa", "ak-gce-ecc", "ak-windows-gcp"])
def test_a_certified_creation_is_authentic(vectors: Path, name: str) -> None:
    """TPM2_CertifyCreation of an AK by itself: its qualified name is also that of the object."""
    case = json.loads((vectors / "tpm-structs" / "go-attestation" / f"{name}.json").read_text())
    public = Public.decode(bytes.fromhex(case["public"]))
    unverified = read(
        bytes.fromhex(case["create_attestation"]),
        bytes.fromhex(case["create_signature"]),
        CreationInfo,
        key=public,
        unsafe_allow_sha1=True,
    )
    run((unverified.check,))
    attest = authenticated(unverified, nonce=Unsafe.NO_NONCE, signer=Unsafe.ANY_SIGNER)
    assert unverified.info.name == public.name
    assert len(attest.qualified_signer) == 34
