"""tpm2-pytss as the oracle: what we write it reads, and what it writes we read.

It is the marshalling code of tpm2-tss, which speaks to real TPMs all day.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given

from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import Reader
from hwtrust.wire.structures import (
    Attest,
    CertifyInfo,
    EccParams,
    EccPoint,
    NvCertifyInfo,
    NvPublic,
    PcrSelection,
    Public,
    QuoteInfo,
    RsaParams,
    Signature,
)
from simulators.software_tpm import SoftwareTpm, counter_public
from simulators.strategies import attests, nv_publics, publics, selections, signatures

tss = pytest.importorskip("tpm2_pytss")


def unmarshal(cls: Any, raw: bytes) -> Any:  # noqa: ANN401 - tpm2-pytss has no types
    """What tpm2-tss reads in `raw`: all of it, and the same bytes when written again."""
    value, length = cls.unmarshal(raw)
    assert length == len(raw)
    assert value.marshal() == raw
    return value


def banks(selection: Any) -> list[tuple[int, bytes]]:  # noqa: ANN401
    """The banks and bitmaps of a TPML_PCR_SELECTION of tpm2-tss."""
    return [
        (int(bank.hash), bytes(bank.pcrSelect)[: bank.sizeofSelect])
        for bank in selection.pcrSelections[: selection.count]
    ]


@given(selections())
def test_a_selection_means_the_same_to_tpm2_tss(selection: PcrSelection) -> None:
    """Banks in the same order, the same bits in the same bitmaps."""
    theirs = unmarshal(tss.TPML_PCR_SELECTION, selection.encode())
    assert [
        (bank, tuple(n for n in range(8 * len(bits)) if bits[n // 8] >> n % 8 & 1))
        for bank, bits in banks(theirs)
    ] == [(int(bank), numbers) for bank, numbers in selection.banks]


@pytest.mark.parametrize("text", ["sha256:0,1,7", "sha1:all+sha256:16,23", "sha384:10+sha1:10"])
def test_a_selection_is_spelled_as_for_tpm2_tss(text: str) -> None:
    """The spelling of tpm2-tools is read alike."""
    raw = tss.TPML_PCR_SELECTION.parse(text).marshal()
    reader = Reader(raw, "TPML_PCR_SELECTION")
    assert PcrSelection.decode(reader) == PcrSelection.parse(text)
    assert PcrSelection.parse(text).encode() == raw


@given(attests)
def test_an_attestation_means_the_same_to_tpm2_tss(attest: Attest) -> None:
    """Every field of every type that hwtrust believes."""
    theirs = unmarshal(tss.TPMS_ATTEST, attest.raw)
    assert int(theirs.type) == attest.type
    assert bytes(theirs.qualifiedSigner) == attest.qualified_signer
    assert bytes(theirs.extraData) == attest.extra_data
    clock = theirs.clockInfo
    assert (clock.clock, clock.resetCount, clock.restartCount, bool(clock.safe)) == (
        attest.clock.clock,
        attest.clock.reset_count,
        attest.clock.restart_count,
        attest.clock.safe,
    )
    assert theirs.firmwareVersion == attest.firmware_version
    attested = attest.attested
    if isinstance(attested, QuoteInfo):
        assert bytes(theirs.attested.quote.pcrDigest) == attested.digest
        assert len(banks(theirs.attested.quote.pcrSelect)) == len(attested.selection.banks)
    elif isinstance(attested, CertifyInfo):
        assert bytes(theirs.attested.certify.name) == attested.name
        assert bytes(theirs.attested.certify.qualifiedName) == attested.qualified_name
    elif isinstance(attested, NvCertifyInfo):
        assert bytes(theirs.attested.nv.indexName) == attested.index_name
        assert theirs.attested.nv.offset == attested.offset
        assert bytes(theirs.attested.nv.nvContents) == attested.contents
    else:
        assert bytes(theirs.attested.creation.objectName) == attested.name
        assert bytes(theirs.attested.creation.creationHash) == attested.creation_hash


@given(publics())
def test_a_public_area_means_the_same_to_tpm2_tss(public: Public) -> None:
    """Attributes, policy, scheme, curve or size, and the Name over them all."""
    theirs = unmarshal(tss.TPMT_PUBLIC, public.encode())
    assert int(theirs.type) == public.type
    assert int(theirs.objectAttributes) == public.attributes
    assert bytes(theirs.authPolicy) == public.auth_policy
    if isinstance(public.params, EccParams) and isinstance(public.unique, EccPoint):
        assert int(theirs.parameters.eccDetail.curveID) == public.params.curve
        assert int(theirs.parameters.eccDetail.scheme.scheme) == public.params.scheme
        assert bytes(theirs.unique.ecc.x) == public.unique.x
        assert bytes(theirs.unique.ecc.y) == public.unique.y
    if isinstance(public.params, RsaParams):
        assert theirs.parameters.rsaDetail.keyBits == public.params.bits
        assert theirs.parameters.rsaDetail.exponent == public.params.exponent
        assert bytes(theirs.unique.rsa) == public.unique
    assert bytes(theirs.get_name()) == public.name


@given(signatures())
def test_a_signature_means_the_same_to_tpm2_tss(signature: Signature) -> None:
    """Algorithm, hash, and the numbers or bytes."""
    theirs = unmarshal(tss.TPMT_SIGNATURE, signature.encode())
    assert int(theirs.sigAlg) == signature.alg
    if isinstance(signature.value, tuple):
        found = theirs.signature.ecdsa
        numbers = (bytes(found.signatureR), bytes(found.signatureS))
        assert tuple(int.from_bytes(n, "big") for n in numbers) == signature.value
    else:
        found = theirs.signature.rsassa
        assert bytes(found.sig) == signature.value
    assert int(found.hash) == signature.hash


@given(nv_publics)
def test_an_index_means_the_same_to_tpm2_tss(public: NvPublic) -> None:
    """Handle, attributes, policy, size, and the Name over them all."""
    theirs = unmarshal(tss.TPMS_NV_PUBLIC, public.encode())
    assert int(theirs.nvIndex) == public.index
    assert int(theirs.attributes) == public.attributes
    assert bytes(theirs.authPolicy) == public.auth_policy
    assert theirs.dataSize == public.size
    assert bytes(theirs.get_name()) == public.name


@pytest.mark.parametrize("label", ["ek", "ak", "storage", "tls"])
def test_the_keys_of_the_software_tpm_are_keys_to_tpm2_tss(label: str) -> None:
    """The PEM that tpm2-tss derives from a public area is the key that is in it."""
    public: Public = getattr(SoftwareTpm(), label)
    theirs = unmarshal(tss.TPM2B_PUBLIC, public.encode_sized())
    assert load_pem_public_key(theirs.to_pem()) == public.key()


def test_the_counter_of_the_software_tpm_is_a_counter_to_tpm2_tss() -> None:
    """TPM_NT is where tpm2-tss looks for it."""
    theirs = unmarshal(tss.TPMS_NV_PUBLIC, counter_public(bytes(32)).encode())
    assert int(theirs.attributes) >> 4 & 0xF == tss.TPM2_NT.COUNTER
    assert int(theirs.nameAlg) == Alg.SHA256
