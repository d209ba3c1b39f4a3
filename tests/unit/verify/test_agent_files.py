"""What keylime sends and tpm2_makecredential writes is read, and written, as it is."""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError, WireError
from hwtrust.verify.agent_files import (
    MAX_AZURE_EVIDENCE,
    MAX_QUOTE_STRING,
    QuoteParts,
    read_azure_evidence,
    read_credential,
    read_keylime_quote,
    write_credential,
)
from hwtrust.verify.attestation import Unsafe
from hwtrust.verify.quote import pcr_digest, verify_quote
from hwtrust.verify.tools_files import read_pcrs, read_selection
from hwtrust.wire.enclave_parts import split_quote
from hwtrust.wire.protect import Credential, make_credential
from hwtrust.wire.structures import Attest, QuoteInfo, Signature
from simulators.good_quote import GOOD, NONCE, PCRS, SELECTION, TPM

if TYPE_CHECKING:
    from pathlib import Path


def sent(*parts: bytes, start: str = "r") -> str:
    """The quote field of keylime's REST API."""
    return start + ":".join(base64.b64encode(part).decode() for part in parts)


def test_a_quote_of_keylime_verifies() -> None:
    """Its parts are those of tpm2_quote."""
    row = b"".join(PCRS[bank][number] for bank, numbers in SELECTION.banks for number in numbers)
    parts = read_keylime_quote(sent(GOOD.message, GOOD.signature, row) + "\n")
    claims = verify_quote(
        parts.message,
        parts.signature,
        key=TPM.ak,
        nonce=NONCE,
        selection=SELECTION,
        pcrs=read_pcrs(parts.pcrs, selection=read_selection(parts.message)),
        signer=TPM.ak_qualified_name,
    )
    assert claims.selection == SELECTION


AZURE = {
    "hcl_report": "SENMQQ",
    "tpm_quote": {"message": "ff54", "signature": "0014", "pcrs": ["00" * 32]},
}


@pytest.mark.parametrize("more", [{"vcek": "MIIF"}, {"td_quote": "BAACAA=="}])
def test_the_evidence_of_an_azure_machine_has_the_parts_of_its_tee(more: dict[str, str]) -> None:
    """In base64 of either alphabet, with its padding or without; what else there is is left."""
    parts = read_azure_evidence(json.dumps(AZURE | more | {"version": 1}).encode())
    assert (parts.tee, split_quote(parts.quote)) == (b"HCLA", (b"\xffT", b"\0\x14"))
    assert json.loads(parts.pcrs) == {"sha256": {"0": "00" * 32}}
    assert bool(parts.certificates) == ("vcek" in more)
    assert bool(parts.td_quote) == ("td_quote" in more)


BAD_AZURE: dict[str, object] = {
    "no object": [],
    "no report": {"tpm_quote": AZURE["tpm_quote"]},
    "no quote": {"hcl_report": ""},
    "a report that is not base64": AZURE | {"hcl_report": "!"},
    "a report that is not ASCII": AZURE | {"hcl_report": "ä"},
    "a message that is not hex": AZURE
    | {"tpm_quote": {"message": "f", "signature": "", "pcrs": []}},
    "more PCRs than a TPM has": AZURE
    | {"tpm_quote": {"message": "", "signature": "", "pcrs": [""] * 25}},
    "a message that is too long": AZURE
    | {"tpm_quote": {"message": "00" * 65536, "signature": "", "pcrs": []}},
    "far too long": AZURE | {"more": "0" * MAX_AZURE_EVIDENCE},
}


@pytest.mark.parametrize("case", BAD_AZURE)
def test_what_is_no_evidence_of_an_azure_machine_is_refused(case: str) -> None:
    """With the code of what is malformed."""
    with pytest.raises(MalformedError) as refused:
        read_azure_evidence(json.dumps(BAD_AZURE[case], ensure_ascii=False).encode())
    assert refused.value.code == "wire:malformed"


BAD_QUOTES = {
    "nothing": "",
    "another start": sent(b"a", b"b", b"c", start="d"),
    "two parts": sent(b"a", b"b"),
    "four parts": sent(b"a", b"b", b"c", b"d"),
    "no base64": "r!:!:!",
    "base64 that is cut": "rYWJ:YWJj:YWJj",
    "a letter beyond ASCII": "rä:YWJj:YWJj",
    "far too long": sent(bytes(MAX_QUOTE_STRING), b"", b""),
}


@pytest.mark.parametrize("case", BAD_QUOTES)
def test_what_is_no_quote_of_keylime_is_refused(case: str) -> None:
    """By its form."""
    with pytest.raises(MalformedError) as refused:
        read_keylime_quote(BAD_QUOTES[case])
    assert refused.value.code == "wire:malformed"


def test_a_compressed_quote_is_refused() -> None:
    """It could unpack to anything, and nobody sends it any more."""
    with pytest.raises(UnsupportedError):
        read_keylime_quote(sent(zlib.compress(GOOD.message), b"", b""))


def test_a_credential_file_comes_back() -> None:
    """And what was made for this TPM opens in it."""
    credential = make_credential(TPM.ek, TPM.ak.name, b"secret")
    assert TPM.activate_credential(read_credential(write_credential(credential))) == b"secret"


def test_what_is_no_credential_file_is_refused() -> None:
    """Another start or version, cut at every byte, or followed by something."""
    good = write_credential(Credential(b"id", b"secret"))
    with pytest.raises(MalformedError):
        read_credential(b"\0" + good[1:])
    with pytest.raises(UnsupportedError):
        read_credential(good[:7] + b"\x02" + good[8:])
    for data in [*(good[:end] for end in range(len(good))), good + b"\0"]:
        with pytest.raises(WireError):
            read_credential(data)


# --- real ones ----------------------------------------------------------------------


def test_the_example_of_keylimes_documentation_is_read(vectors: Path) -> None:
    """Its parts are the files beside it; its key is not published."""
    folder = vectors / "tpm-quotes/keylime-agent-quote-string"
    parts = read_keylime_quote((folder / "test-quote.txt").read_text())
    assert parts == QuoteParts(
        (folder / "attest.bin").read_bytes(),
        (folder / "signature.bin").read_bytes(),
        (folder / "pcrs.tools.bin").read_bytes(),
    )
    attest = Attest.decode(parts.message)
    assert attest.extra_data == b"TEST"
    assert isinstance(attest.attested, QuoteInfo)
    selection = read_selection(parts.message)
    hash_ = Signature.decode(parts.signature).hash
    values = read_pcrs(parts.pcrs, selection=selection)
    assert pcr_digest(values, selection, hash_) == attest.attested.digest
    with pytest.raises(HwTrustError):
        verify_quote(
            parts.message,
            parts.signature,
            key=TPM.ak,
            nonce=b"TEST",
            selection=selection,
            pcrs=values,
            signer=Unsafe.ANY_SIGNER,
        )


def test_a_credential_of_tpm2_tools_is_read_and_written(vectors: Path) -> None:
    """Keylime's mkcred.out, byte for byte."""
    raw = (vectors / "tpm-quotes/keylime-files/mkcred.out").read_bytes()
    assert write_credential(read_credential(raw)) == raw
