"""TPM structures that others made: what they hold, and that their bytes come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hwtrust.errors import HwTrustError, MalformedError, WeakKeyError
from hwtrust.verify.signature import verify_signature
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.codec import Reader
from hwtrust.wire.structures import (
    Attest,
    CertifyInfo,
    CreationInfo,
    EccParams,
    Public,
    QuoteInfo,
    RsaParams,
    Signature,
)


@pytest.fixture(scope="session")
def structures(vectors: Path) -> Path:
    """The folder of TPM structures."""
    return vectors / "tpm-structs"


def load(path: Path) -> Any:  # noqa: ANN401 - what JSON holds
    """A JSON file."""
    return json.loads(path.read_text())


def test_every_public_area_decodes_and_comes_back(structures: Path) -> None:
    """Templates, EKs and AKs of many makers."""
    files = sorted(structures.rglob("*.tpm2b_public"))
    assert len(files) >= 8
    for file in files:
        raw = file.read_bytes()
        assert Public.decode_sized(raw).encode_sized() == raw, file.name
    template = (structures / "tpm2-tools" / "ek-template-default.bin").read_bytes()
    assert Public.decode(template).encode() == template


def test_decoded_fields_and_names_are_as_given(structures: Path) -> None:
    """Type, attributes, policy, scheme and Name of keylime's vectors."""
    cases = load(structures / "keylime" / "tpm2b_public.json")
    assert len(cases) >= 5
    for case in cases:
        public, expected = Public.decode_sized(bytes.fromhex(case["tpm2b_public"])), case["decoded"]
        assert public.type.name.lower() == expected["type"]
        assert public.name_alg.name.lower() == expected["nameAlg"]
        assert public.attributes == int(expected["attributes"], 16)
        assert public.auth_policy.hex() == expected["authPolicy"]
        assert isinstance(public.params, EccParams | RsaParams)
        assert public.params.scheme.name.lower() == expected["scheme"]
        assert public.params.symmetric.alg.name.lower() == expected["symmetric"]
        if "name" in expected:
            assert public.name.hex() == expected["name"]


def test_a_name_is_the_one_that_the_tpm_gave(structures: Path) -> None:
    """go-tpm's ReadPublic response."""
    case = load(structures / "go-tpm" / "read-public.json")
    public = Public.decode(bytes.fromhex(case["tpmt_public"]))
    assert public.name.hex() == case["name"]


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_an_ek_is_the_key_in_its_pem(structures: Path, kind: str) -> None:
    """Modulus and point are read where they are."""
    public = Public.decode_sized((structures / f"vm-ek-{kind}.tpm2b_public").read_bytes())
    assert public.key() == load_pem_public_key((structures / f"vm-ek-{kind}.pem").read_bytes())


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_the_keys_of_the_encapsulation_vectors_come_back(structures: Path, kind: str) -> None:
    """200 keys with every combination of hash, cipher and curve."""
    cases = load(structures / "go-tpm" / f"{kind}_labeled_encaps.json")
    assert len(cases) == 100
    for case in cases:
        raw = bytes.fromhex(case["PublicKey"])
        assert Public.decode(raw).encode() == raw, case["Name"]


@pytest.mark.parametrize("name", ["ak-infineon-rsa", "ak-gce-ecc", "ak-windows-gcp"])
def test_a_certified_creation_holds_together(structures: Path, name: str) -> None:
    """TPM2_CertifyCreation by real TPMs: Name, digest and signature are read right."""
    case = load(structures / "go-attestation" / f"{name}.json")
    public = Public.decode(bytes.fromhex(case["public"]))
    message = bytes.fromhex(case["create_attestation"])
    info = Attest.decode(message).attested
    assert isinstance(info, CreationInfo)
    assert info.name == public.name
    assert info.creation_hash == new_hash(Alg.SHA256, bytes.fromhex(case["create_data"]))
    signature = Signature.decode(bytes.fromhex(case["create_signature"]))
    verify_signature(public, signature, message, unsafe_allow_sha1=True)


def test_a_quote_of_go_tpm_is_read(structures: Path) -> None:
    """SHA-1 everywhere, and a key of 1024 bits: decodes, and is judged elsewhere."""
    raw = (structures / "go-tpm" / "decode-quote.attest.bin").read_bytes()
    attest = Attest.decode(raw)
    assert isinstance(attest.attested, QuoteInfo)
    assert str(attest.attested.selection) == "sha1:7"
    assert attest.encode() == raw
    raw = (structures / "go-tpm" / "decode-quote.signature.bin").read_bytes()
    assert Signature.decode(raw).encode() == raw


def test_a_key_on_a_weak_curve_is_refused(structures: Path) -> None:
    """P-224 is recognised, and then refused."""
    case = load(structures / "go-attestation" / "ak-insecure-curve.json")
    with pytest.raises(WeakKeyError) as refused:
        Public.decode(bytes.fromhex(case["public"])).key()
    assert refused.value.code == "evidence:key:weak"


def test_bytes_that_crashed_a_parser_end_in_a_typed_error(structures: Path) -> None:
    """go-attestation issues 139 and 142."""
    cases = load(structures / "go-attestation" / "parser-bugs.json")
    assert len(cases) == 2
    for case in cases:
        raw = bytes.fromhex(case["bytes"])
        if case["kind"] == "TPMT_PUBLIC":
            with pytest.raises(WeakKeyError):
                Public.decode(raw).key()
        else:
            reader = Reader(raw, "EK certificate in NV")
            reader.take(3)
            with pytest.raises(MalformedError):
                reader.sized()


def test_ecdsa_signatures_in_every_form_are_read_or_refused(structures: Path) -> None:
    """Cut ones do not decode; too long ones verify under no key; zeros in front are kept."""
    cases = {
        case["name"]: bytes.fromhex(case["tpmt_signature"])
        for case in load(structures / "keylime" / "ecdsa-signature-forms.json")
    }
    assert len(cases) == 5
    key = Public.decode_sized((structures / "vm-ek-ecc.tpm2b_public").read_bytes()).key()
    for name, raw in cases.items():
        if name.startswith("p521"):
            assert Signature.decode(raw).encode() == raw
        else:
            with pytest.raises(HwTrustError) as refused:
                verify_signature(key, Signature.decode(raw), b"")
            assert refused.value.code in {"wire:malformed", "evidence:signature:invalid"}


def test_structures_in_tpm_responses_are_read(structures: Path) -> None:
    """Each buffer ends in a typed error or in a value, whatever it is taken for."""
    cases = load(structures / "go-tpm" / "encoding.json")
    assert len(cases) >= 10
    for case in cases:
        raw = bytes.fromhex(case["hex"])
        for start in range(len(raw)):
            for decode in (Attest.decode, Public.decode, Public.decode_sized, Signature.decode):
                try:
                    decode(raw[start:])
                except HwTrustError:
                    continue


@pytest.mark.parametrize(
    "name", ["dell-xps-13", "lenovo-carbon-x1", "surface-pro-4", "tpm-with-ecc-public-area-type"]
)
def test_a_certified_name_is_that_of_the_public_area_beside_it(structures: Path, name: str) -> None:
    """TPM2_Certify by four Windows machines."""
    case = load(structures / "webauthn" / f"{name}.json")
    attest = Attest.decode(bytes.fromhex(case["certInfo (TPMS_ATTEST)"]))
    public = Public.decode(bytes.fromhex(case["pubArea (TPMT_PUBLIC)"]))
    assert isinstance(attest.attested, CertifyInfo)
    assert attest.attested.name == public.name
    assert public.key().key_size in {256, 2048}
