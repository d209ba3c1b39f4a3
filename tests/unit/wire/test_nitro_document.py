"""Attestation documents of Nitro enclaves: decoded whole, in bounds, or not at all."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.enclaves.nitro import NitroDocument
from simulators.nitro_signer import MODULE_ID, NONCE, NOW_MS, PCRS, USER_DATA, NitroSigner

SIGNER = NitroSigner()


def test_a_document_is_decoded() -> None:
    """Every field."""
    document = NitroDocument.decode(SIGNER.document(public_key=b"key"))
    assert document.module_id == MODULE_ID
    assert document.timestamp == NOW_MS - 1500
    assert document.pcrs == PCRS
    assert (*document.cabundle, document.certificate) == SIGNER.certificates
    assert (document.public_key, document.user_data) == (b"key", USER_DATA)
    assert document.nonce == NONCE


def test_its_facts_are_in_the_fields_terms() -> None:
    """Byte strings in hex; what is not there is not told."""
    facts = NitroDocument.decode(SIGNER.document()).facts()
    assert facts["module_id"] == MODULE_ID
    assert facts["pcr0"] == PCRS[0].hex()
    assert facts["nonce"] == NONCE.hex()
    assert facts["debug"] is False
    assert "public_key" not in facts


@pytest.mark.parametrize("number", [0, 1, 2])
def test_facts_tell_an_enclave_in_debug_mode(number: int) -> None:
    """Whoever reads them sees that the image is not measured; what is empty is told as that."""
    pcrs = PCRS | {number: bytes(48)}
    facts = NitroDocument.decode(SIGNER.document(pcrs=pcrs, user_data=b"")).facts()
    assert facts["debug"] is True
    assert facts["user_data"] == ""


def test_the_largest_of_each_field_is_taken() -> None:
    """Module id, PCRs, certificates: at AWS's limits and the bundle's own."""
    largest: dict[str, Any] = {
        "module_id": "i" * 256,
        "pcrs": {number: bytes([number]) * 48 for number in range(32)},
        "certificate": b"c" * 1024,
        "cabundle": [b"b" * 1024] * 8,
    }
    document = NitroDocument.decode(SIGNER.document(**largest))
    assert document.module_id == largest["module_id"]
    assert document.pcrs == largest["pcrs"]
    assert document.certificate == largest["certificate"]
    assert [*document.cabundle] == largest["cabundle"]


@pytest.mark.parametrize("field", ["public_key", "user_data", "nonce"])
def test_optional_fields_may_be_missing_null_or_long(field: str) -> None:
    """To the larger of AWS's limits."""
    for given, expected in ((..., None), (None, None), (b"x" * 1024, b"x" * 1024)):
        document = NitroDocument.decode(SIGNER.document(**{field: given}))
        assert getattr(document, field) == expected


MALFORMED: dict[str, dict[str, Any]] = {
    "no module id": {"module_id": ...},
    "an empty module id": {"module_id": ""},
    "a module id that is too long": {"module_id": "i" * 257},
    "no digest": {"digest": ...},
    "no timestamp": {"timestamp": ...},
    "a timestamp of zero": {"timestamp": 0},
    "a negative timestamp": {"timestamp": -1},
    "a timestamp with a fraction": {"timestamp": 1.5},
    "a timestamp of more than 63 bits": {"timestamp": 2**63},
    "no PCRs": {"pcrs": ...},
    "an empty map of PCRs": {"pcrs": {}},
    "PCRs in a list": {"pcrs": [bytes(48)]},
    "PCR 32": {"pcrs": {32: bytes(48)}},
    "PCR -1": {"pcrs": {-1: bytes(48)}},
    "PCR true": {"pcrs": {True: bytes(48)}},
    "a PCR by name": {"pcrs": {"0": bytes(48)}},
    "a PCR of 32 bytes": {"pcrs": {0: bytes(48), 1: bytes(32)}},
    "a PCR of 64 bytes": {"pcrs": {0: bytes(64)}},
    "PCRs all of 32 bytes": {"pcrs": {0: bytes(32)}},
    "a PCR that is null": {"pcrs": {0: None}},
    "33 PCRs": {"pcrs": {number: bytes(48) for number in range(33)}},
    "no certificate": {"certificate": ...},
    "an empty certificate": {"certificate": b""},
    "a certificate of 1025 bytes": {"certificate": bytes(1025)},
    "no cabundle": {"cabundle": ...},
    "an empty cabundle": {"cabundle": []},
    "a cabundle that is too long": {"cabundle": [b"x"] * 9},
    "a cabundle of texts": {"cabundle": ["x"]},
    "an empty certificate in the cabundle": {"cabundle": [b""]},
    "a large certificate in the cabundle": {"cabundle": [bytes(1025)]},
    "a nonce that is a text": {"nonce": "nonce"},
    "a nonce of 1025 bytes": {"nonce": bytes(1025)},
    "user data of 1025 bytes": {"user_data": bytes(1025)},
    "a public key of 1025 bytes": {"public_key": bytes(1025)},
    "another field": {"debug": False},
    "a list where a map should be, deep": {"pcrs": {0: [[]]}},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_signed_document_of_another_form_is_refused(case: str) -> None:
    """Whoever signed it."""
    with pytest.raises(MalformedError) as refused:
        NitroDocument.decode(SIGNER.document(**MALFORMED[case]))
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("digest", ["SHA256", "sha384", "SHA38"])
def test_another_digest_is_refused(digest: str) -> None:
    """PCRs of a Nitro enclave are of SHA-384."""
    with pytest.raises(UnsupportedError):
        NitroDocument.decode(SIGNER.document(digest=digest))


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xf6", b"\xa0", cbor2.dumps(b"x")])
def test_a_payload_that_is_no_document_is_refused(payload: bytes) -> None:
    """Empty, a list, null, an empty map, a string."""
    with pytest.raises(MalformedError):
        NitroDocument.decode(SIGNER.signed(payload))


def test_a_document_has_no_tag() -> None:
    """AWS signs the bare list."""
    with pytest.raises(MalformedError):
        NitroDocument.decode(b"\xd2" + SIGNER.document())


def test_every_cut_and_any_addition_is_refused() -> None:
    """At each byte; empty evidence is the shortest."""
    whole = SIGNER.document()
    for end in range(len(whole)):
        with pytest.raises(MalformedError):
            NitroDocument.decode(whole[:end])
    with pytest.raises(MalformedError):
        NitroDocument.decode(whole + b"\x00")
