"""Evidence of real Azure machines: it verifies, and with anything changed it does not."""

from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import HwTrustError, StaleQuoteError
from hwtrust.errors.azure import AzureQuoteError, AzureTeeError, AzureUserDataError
from hwtrust.verify.attestation import Unsafe as AnyQuote
from hwtrust.verify.enclaves.azure import AzureClaims, SnpTee, Unsafe, verify_azure
from hwtrust.verify.enclaves.snp import AMD
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.enclaves.azure import HclReport, RuntimeData, TeeKind
from simulators.quote_vectors import QUOTES

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 22, tzinfo=UTC)
USER_DATA = bytes.fromhex(
    "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9a"
    "a398f647caa2338748cd0fd9f5f819ef"
)
NONCES = {"v1": b"challenge", "v2": USER_DATA}
USER = {"v1": bytes(64), "v2": USER_DATA}


def unpadded(text: str) -> bytes:
    """Base64 of either alphabet, without its padding."""
    text = text.replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4))


def evidence(vectors: Path, name: str) -> dict[str, Any]:
    """The arguments for one file of the corpus."""
    case = json.loads((vectors / f"azure-vtpm/coco-snp-evidence-{name}.json").read_bytes())
    quote = case["tpm_quote"]
    chain = (vectors / "sev-snp/gosev-ask_ark_milan.pem").read_bytes()
    values = [bytes.fromhex(value) for value in quote["pcrs"]]
    return {
        "report": unpadded(case["hcl_report"]),
        "message": bytes.fromhex(quote["message"]),
        "signature": bytes.fromhex(quote["signature"]),
        "tee": SnpTee(certificates=[unpadded(case["vcek"]), chain], trust=AMD),
        "nonce": NONCES[name],
        "user_data": USER[name],
        "selection": AnyQuote.ANY_SELECTION,
        "pcrs": {Alg.SHA256: dict(enumerate(values))},
        "now": NOW,
    }


def verify(arguments: dict[str, Any], **changes: Any) -> AzureClaims:  # noqa: ANN401
    """Verify with some arguments changed."""
    return verify_azure(**(arguments | changes))


@pytest.mark.parametrize("name", NONCES)
def test_the_evidence_of_a_real_machine_verifies(vectors: Path, name: str) -> None:
    """AMD's chain, the runtime data, the vTPM's key, its quote and all 24 PCRs."""
    claims = verify(evidence(vectors, name))
    assert claims.runtime_data.flag("secure-boot")
    assert len(claims.quote.pcrs[Alg.SHA256]) == 24
    assert claims.facts()["tee_product"] == "Milan"


def test_the_quote_of_one_machine_is_refused_under_the_report_of_the_other(vectors: Path) -> None:
    """Adversary 92, with two real machines: as the README says."""
    one, other = (evidence(vectors, name) for name in NONCES)
    for own, foreign in ((one, other), (other, one)):
        quote = {key: foreign[key] for key in ("message", "signature", "pcrs", "nonce")}
        with pytest.raises(AzureQuoteError) as refused:
            verify(own, **quote)
        assert refused.value.code == "azure:quote:signature"


@pytest.mark.parametrize("name", NONCES)
def test_the_same_evidence_is_refused_for_somebody_else(vectors: Path, name: str) -> None:
    """Another nonce, other user data."""
    good = evidence(vectors, name)
    with pytest.raises(StaleQuoteError):
        verify(good, nonce=b"another")
    with pytest.raises(AzureUserDataError):
        verify(good, user_data=b"another")


@pytest.mark.parametrize("name", NONCES)
def test_every_changed_bit_is_refused(vectors: Path, name: str) -> None:
    """All of the quote, and a seeded sample of what the TEE vouches for.

    Not signed are the header, the size of the report and the padding; they carry
    nothing, and most of their bits are refused by form.
    """
    good = evidence(vectors, name)
    report = good["report"]
    end = len(report.rstrip(b"\0"))
    signed = [*range(32 * 8, (32 + 0x2A0) * 8), *range((32 + 1184) * 8, end * 8)]
    tried = random.Random(92).sample(signed, 400)  # noqa: S311  the same each time
    for bit in tried:
        with pytest.raises(HwTrustError):
            verify(good, report=flipped(report, bit))
    for part in ("message", "signature"):
        for bit in random.Random(13).sample(range(len(good[part]) * 8), 200):  # noqa: S311
            with pytest.raises(HwTrustError):
                verify(good, **{part: flipped(good[part], bit)})


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with that bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


FOLDERS = ("azure-snp-tpm-quote-v1", "azure-snp-evidence-v2", "azure-tdx-tpm-quote-v1")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_reports_beside_the_quotes_hold_the_key_that_signed_them(
    vectors: Path, folder: str
) -> None:
    """Also that of a TDX machine, whose TD quote nobody has published."""
    assert vectors.is_dir()
    raw = (QUOTES / folder / "hcl-report.bin").read_bytes()
    hcl = HclReport.decode(raw)
    is_tdx = hcl.kind is TeeKind.TDX
    assert is_tdx == ("tdx" in folder)
    start = 128 if is_tdx else 0x50
    assert hcl.tee_report[start : start + 64] == hcl.report_data
    assert RuntimeData.decode(hcl.runtime_data).keys[0].kid == "HCLAkPub"
    if is_tdx:
        tee = SnpTee(certificates=(), trust=AMD)
        with pytest.raises(AzureTeeError):
            verify_azure(
                raw,
                b"",
                b"",
                tee=tee,
                nonce=b"n",
                user_data=Unsafe.ANY_USER_DATA,
                selection=AnyQuote.ANY_SELECTION,
                pcrs={},
                now=NOW,
            )
