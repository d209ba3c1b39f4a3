"""Quotes that others made: each of the corpus ends as its case.json says.

Keys come as PEM and as TPM structures, signatures as TPMT_SIGNATURE, DER and bare
bytes, PCR values as JSON, serialized and in a row: every combination is read.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from hwtrust.errors import (
    EvidenceError,
    HwTrustError,
    PcrDigestError,
    SignatureAlgorithmError,
    StaleQuoteError,
    UnsupportedError,
    WeakBankError,
)
from hwtrust.verify.attestation import Unsafe
from hwtrust.verify.quote import (
    ENDORSEMENT,
    OWNER,
    PcrValues,
    QuoteClaims,
    pcr_digest,
    qualified_name,
    qualified_name_under,
    verify_quote,
)
from hwtrust.verify.tools_files import read_key, read_message, read_pcrs, read_signature
from hwtrust.wire.structures import Attest, PcrSelection, Public, QuoteInfo, Signature
from simulators.quote_vectors import Case, quote_cases

CASES = quote_cases()
QUOTES = [case for case in CASES if case.expects("signature", "valid")]
NOT_QUOTES = [case for case in CASES if "parse" in case.expected]

if not CASES:
    pytest.skip(
        "the test vectors are not there: say where by HWTRUST_VECTORS", allow_module_level=True
    )


def each(cases: list[Case]) -> pytest.MarkDecorator:
    """A test for each of `cases`, named after its folder."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.folder.name)


def verify(
    case: Case,
    key_file: Path,
    pcrs: PcrValues,
    *,
    nonce: bytes | None = None,
    unsafe_allow_sha1: bool | None = None,
) -> QuoteClaims:
    """Verify the quote of a case, by default with its own nonce where it has one."""
    message = read_message(case.message_file.read_bytes())
    key = read_key(key_file.read_bytes())
    signature = read_signature(case.signature_file.read_bytes(), key=key, message=message)
    expected = case.nonce if nonce is None else nonce
    return verify_quote(
        message,
        signature,
        key=key,
        nonce=expected or Unsafe.NO_NONCE,
        selection=case.selection,
        pcrs=pcrs,
        signer=Unsafe.ANY_SIGNER,
        unsafe_allow_sha1=case.needs_sha1 if unsafe_allow_sha1 is None else unsafe_allow_sha1,
    )


def pcrs_of(case: Case, file: Path) -> PcrValues:
    """The values in one of a case's files."""
    return read_pcrs(file.read_bytes(), selection=case.selection)


def test_the_corpus_is_whole() -> None:
    """A corpus that went missing does not pass for one that verified."""
    assert len(CASES) >= 37
    assert len(QUOTES) >= 32
    assert len(NOT_QUOTES) >= 2
    assert sum(len(case.pcr_files) for case in CASES) >= 51
    assert sum(len(case.key_files) for case in CASES) >= 52
    forms = {case.signature_file.suffix for case in CASES}
    assert forms == {".bin", ".der", ".raw"}


@each(QUOTES)
def test_a_quote_ends_as_its_case_says(case: Case) -> None:
    """With every form of its key and of its PCR values."""
    for key_file, pcr_file in product(case.key_files, case.pcr_files):
        if not case.expects("pcr_digest", "match"):
            with pytest.raises(UnsupportedError):
                pcrs_of(case, pcr_file)
        elif case.expects("nonce", "mismatch"):
            with pytest.raises(StaleQuoteError) as refused:
                verify(case, key_file, pcrs_of(case, pcr_file))
            assert refused.value.code == "evidence:nonce:mismatch"
        else:
            claims = verify(case, key_file, pcrs_of(case, pcr_file))
            assert claims.selection == case.selection
            assert claims.clock.clock == case.facts["attest"]["clock"]
            assert claims.clock.reset_count == case.facts["attest"]["resetCount"]
            assert f"{claims.firmware_version:016x}" == case.facts["attest"]["firmwareVersion"]


@each([case for case in CASES if case.expects("signature", "invalid")])
def test_a_quote_with_a_bad_signature_is_refused(case: Case) -> None:
    """By its signature, or because damage made it something else than a quote."""
    for key_file in case.key_files:
        message, key = case.message_file.read_bytes(), read_key(key_file.read_bytes())
        with pytest.raises(EvidenceError) as refused:
            verify_quote(
                message,
                case.signature_file.read_bytes(),
                key=key,
                nonce=case.nonce or Unsafe.NO_NONCE,
                selection=Unsafe.ANY_SELECTION,
                pcrs={},
                signer=Unsafe.ANY_SIGNER,
            )
        assert refused.value.code in {"evidence:signature:invalid", "evidence:type:mismatch"}


@each(NOT_QUOTES)
def test_what_is_no_quote_is_not_read_as_one(case: Case) -> None:
    """A TPM 1.2 quote has another magic, a certified key another type."""
    key = read_key((QUOTES[0].folder / "ak.pem").read_bytes())
    with pytest.raises(EvidenceError) as refused:
        verify_quote(
            case.message_file.read_bytes(),
            b"",
            key=key,
            nonce=Unsafe.NO_NONCE,
            selection=Unsafe.ANY_SELECTION,
            pcrs={},
            signer=Unsafe.ANY_SIGNER,
        )
    assert refused.value.code in {"evidence:magic:mismatch", "evidence:type:mismatch"}


GOOD = [
    case
    for case in QUOTES
    if case.expects("pcr_digest", "match") and not case.expects("nonce", "mismatch")
]


@each(GOOD)
def test_the_same_quote_is_refused_for_another_nonce(case: Case) -> None:
    """Also the quotes of upstreams that ask with no nonce."""
    with pytest.raises(StaleQuoteError) as refused:
        verify(case, case.key_files[0], pcrs_of(case, case.pcr_files[0]), nonce=b"another nonce")
    assert refused.value.code == "evidence:nonce:mismatch"


@each(GOOD)
def test_the_same_quote_is_refused_with_one_value_changed(case: Case) -> None:
    """Each of its PCRs, one at a time."""
    pcrs = pcrs_of(case, case.pcr_files[0])
    for bank, numbers in case.selection.banks:
        for number in numbers:
            value = bytearray(pcrs[bank][number])
            value[-1] ^= 1
            changed = {**pcrs, bank: {**pcrs[bank], number: bytes(value)}}
            with pytest.raises(PcrDigestError) as refused:
                verify(case, case.key_files[0], changed)
            assert refused.value.code == "evidence:pcrs:mismatch"


@each([case for case in GOOD if case.needs_sha1])
def test_a_quote_that_rests_on_sha1_is_refused_unless_it_is_spelled_out(case: Case) -> None:
    """By its signature, or by its only bank."""
    with pytest.raises((SignatureAlgorithmError, WeakBankError)):
        verify(case, case.key_files[0], pcrs_of(case, case.pcr_files[0]), unsafe_allow_sha1=False)


@each(GOOD)
def test_the_same_quote_is_refused_under_every_other_key(case: Case) -> None:
    """Keys of the same device in other cases are the same keys, and stay aside."""
    message = case.message_file.read_bytes()
    own = read_key(case.key_files[0].read_bytes())
    own_key = own.key() if isinstance(own, Public) else own
    pcrs = pcrs_of(case, case.pcr_files[0])
    tried = 0
    for other in GOOD:
        key = read_key(other.key_files[0].read_bytes())
        if (key.key() if isinstance(key, Public) else key) == own_key:
            continue
        tried += 1
        with pytest.raises(HwTrustError) as refused:
            verify_quote(
                message,
                read_signature(case.signature_file.read_bytes(), key=own, message=message),
                key=key,
                nonce=Unsafe.NO_NONCE,
                selection=case.selection,
                pcrs=pcrs,
                signer=Unsafe.ANY_SIGNER,
                unsafe_allow_sha1=True,
            )
        assert refused.value.code in {"evidence:signature:invalid", "evidence:signature:algorithm"}
    assert tried > 10


def test_every_file_of_the_corpus_comes_back_from_its_decoder() -> None:
    """Attestations and signatures, byte for byte."""
    seen = 0
    for case in CASES:
        if not case.facts.get("attest") or case.facts["attest"].get("type") == "0x8019":
            continue
        raw = case.message_file.read_bytes()
        assert Attest.decode(raw).encode() == raw
        if case.signature_file.suffix == ".bin":
            raw = case.signature_file.read_bytes()
            assert Signature.decode(raw).encode() == raw
        seen += 1
    assert seen >= 35


@each([case for case in CASES if case.expects("signature", "cannot be checked")])
def test_a_quote_without_a_known_key_holds_together_all_the_same(case: Case) -> None:
    """Keylime's documented example: values and nonce are the ones in the message."""
    attest = Attest.decode(case.message_file.read_bytes())
    assert isinstance(attest.attested, QuoteInfo)
    assert attest.extra_data == case.nonce
    hash_ = Signature.decode(case.signature_file.read_bytes()).hash
    for file in case.pcr_files:
        pcrs = pcrs_of(case, file)
        assert pcr_digest(pcrs, case.selection, hash_) == attest.attested.digest


def test_a_qualified_signer_is_the_qualified_name_that_we_compute() -> None:
    """Google's AK is a primary of the endorsement hierarchy, keylime's a child of its EK."""
    cases = {case.folder.name: case for case in CASES}
    google = cases["go-tpm-tools-gce-cos-85-no-nonce-sha256"]
    ak = Public.decode((google.folder / "ak.tpmt_public").read_bytes())
    expected = bytes.fromhex(google.facts["attest"]["qualifiedSigner"])
    assert qualified_name(ak.name, hierarchy=ENDORSEMENT) == expected
    assert qualified_name(ak.name, hierarchy=OWNER) != expected
    keylime = cases["keylime-files"]
    ek = Public.decode_sized((keylime.folder / "ek.pub").read_bytes())
    ak = Public.decode_sized((keylime.folder / "ak.tpm2b_public").read_bytes())
    parent = qualified_name(ek.name, hierarchy=ENDORSEMENT)
    expected = bytes.fromhex(keylime.facts["attest"]["qualifiedSigner"])
    assert qualified_name_under(ak.name, parent=parent) == expected


def test_the_selection_is_the_one_that_another_decoder_found() -> None:
    """Banks in signed order; upstream's decoder is an independent one."""
    for case in QUOTES:
        info = Attest.decode(case.message_file.read_bytes()).attested
        assert isinstance(info, QuoteInfo)
        assert info.selection == case.selection
        assert PcrSelection.parse(str(info.selection)) == case.selection
        assert info.digest.hex() == case.facts["attest"]["pcrDigest"]
