"""Is this SEV-SNP report authentic: made by the AMD-SP of a genuine chip, for this challenge?

    report, certificates beside it ── verify_snp ──▶ SnpClaims ── snp_rules ──▶ findings

Rules, in the order in which they are checked (the code carries their numbers):

1. form       the report is one of a version that is known (`hwtrust.wire.enclaves.snp`).
2. signer     it says that VCEK or VLEK signed it. A report without a signature is refused.
3. chain      the certificates make a chain of that kind from a P-384 key to a root
              that is trusted (`hwtrust.verify.enclaves.snp_chain`).
4. signature  the key made the signature: ECDSA over SHA-384 of the first 0x2A0 bytes
              as received, R and S in their range.
5. product    the processor that the report names, if its version does, is of the
              line of the root.
6. TCB        the reported TCB version is the certificate's, component by component.
              The key is derived from it: another one means another certificate.
7. chip       under a VCEK the chip id is the certificate's. A masked one is refused,
              unless the caller takes any chip: any genuine chip may have made it then.
8. data       report_data is what was asked for, all 64 bytes. Empty is refused.

Whether what the report says is acceptable (debug, measurement, TCB floors and so on)
is for `hwtrust.verify.enclaves.snp_rules`: an authentic report of a guest with
debugging enabled verifies here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum, auto
from hmac import compare_digest
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hwtrust.errors import EmptyNonceError, StaleQuoteError
from hwtrust.errors.snp import (
    SnpChipError,
    SnpMaskedChipError,
    SnpProductError,
    SnpSignatureError,
    SnpSignerError,
    SnpTcbError,
)
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.verify.enclaves.snp_chain import AMD, Endorsement, SnpTrust, endorsed
from hwtrust.wire.enclaves.snp import CHIP_ID_SIZE, Product, SigningKey, SnpReport, Tcb

__all__ = ["AMD", "SnpClaims", "SnpTrust", "Unsafe", "verify_snp"]

_ECDSA: Final = ec.ECDSA(hashes.SHA384())
_ORDER: Final = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)
"""Of P-384."""
_MASKED: Final = bytes(CHIP_ID_SIZE)


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    NO_REPORT_DATA = auto()
    """The report may be a replay of any age, and binds nothing."""


_NO_REPORT_DATA: Final = Unsafe.NO_REPORT_DATA

ReportData = bytes | Literal[Unsafe.NO_REPORT_DATA]


class SnpClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an authentic report says; only `hwtrust.verify` makes them."""

    report: SnpReport
    product: Product
    """The line of the root; the processor's own where the report tells it."""
    chip_id: bytes
    """The chip, vouched for by AMD: 64 bytes, or 8 on Turin; empty if masked or under a VLEK."""
    csp_id: str
    """The cloud provider that the VLEK was given to; empty under a VCEK."""
    reported_tcb: Tcb
    current_tcb: Tcb
    committed_tcb: Tcb
    launch_tcb: Tcb
    certificates: tuple[str, str, str]
    """The SHA-256 of VCEK or VLEK, ASK or ASVK, and ARK."""
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What the report says, with what its certificates add, for people and programs."""
        return self.report.facts() | {
            "product": str(self.product),
            "chip_id": self.chip_id.hex(),
            "csp_id": self.csp_id,
            "reported_tcb": str(self.reported_tcb),
            "current_tcb": str(self.current_tcb),
            "committed_tcb": str(self.committed_tcb),
            "launch_tcb": str(self.launch_tcb),
            "certificates": list(self.certificates),
        }


def verify_snp(
    report: bytes,
    *,
    certificates: Sequence[bytes],
    report_data: ReportData,
    now: datetime,
    trust: SnpTrust,
    unsafe_allow_masked_chip: bool = False,
) -> SnpClaims:
    """Check that `report` is authentic and answers `report_data`.

    `report` has 1184 bytes, `report_data` 64. `certificates` are files of DER or PEM
    in any order: VCEK or VLEK, ASK or ASVK, ARK. `now` knows its time zone.

    Raises:
        EvidenceError: it is not authentic, or does not answer.
        WireError: report or certificates are malformed, or of a kind that is not known.
    """
    # (8), in part: nothing else matters if nothing is asked.
    if report_data is not _NO_REPORT_DATA and not report_data:
        raise EmptyNonceError("the report data is empty: whatever answers it may be of any age")
    # (1): form.
    decoded = SnpReport.decode(report)
    # (2): signer.
    if decoded.signing_key is SigningKey.NONE:
        raise SnpSignerError("the report says itself that it is not signed")
    # (3): chain.
    endorsement = endorsed(certificates, kind=decoded.signing_key, now=now, trust=trust)
    # (4): signature.
    _require_signature(decoded, endorsement.key)
    product = endorsement.product
    # (5): product.
    if decoded.product not in {None, product}:
        raise SnpProductError(
            f"the report is of a processor of {decoded.product}, its key of one of {product}"
        )
    # (6): TCB.
    reported = Tcb.decode(decoded.reported_tcb, product)
    if reported != endorsement.tcb:
        raise SnpTcbError(
            f"the report states the TCB version {reported}, the certificate {endorsement.tcb}"
        )
    # (7): chip.
    masked = decoded.chip_id == _MASKED
    if decoded.signing_key is SigningKey.VCEK:
        if (masked or decoded.mask_chip_key) and not unsafe_allow_masked_chip:
            raise SnpMaskedChipError(
                "the host masks the chip id: any chip may have made the report"
            )
        if not masked:
            _require_chip(decoded, endorsement)
    # (8): report data.
    if report_data is not _NO_REPORT_DATA and not compare_digest(decoded.report_data, report_data):
        raise StaleQuoteError("the report holds other report data than what was asked for")
    return SnpClaims(
        report=decoded,
        product=product,
        chip_id=b"" if masked else endorsement.hwid,
        csp_id=endorsement.csp_id,
        reported_tcb=reported,
        current_tcb=Tcb.decode(decoded.current_tcb, product),
        committed_tcb=Tcb.decode(decoded.committed_tcb, product),
        launch_tcb=Tcb.decode(decoded.launch_tcb, product),
        certificates=endorsement.fingerprints,
        verified=VERIFIED,
    )


def _require_signature(report: SnpReport, key: ec.EllipticCurvePublicKey) -> None:
    r = int.from_bytes(report.signature_r, "little")
    s = int.from_bytes(report.signature_s, "little")
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise SnpSignatureError("the numbers of the report's signature are out of their range")
    try:
        key.verify(encode_dss_signature(r, s), report.signed, _ECDSA)
    except (InvalidSignature, UnsupportedAlgorithm):
        raise SnpSignatureError("the report's signature does not verify under its key") from None


def _require_chip(report: SnpReport, endorsement: Endorsement) -> None:
    """Turin's chips have a shorter id, and zeros follow it in the report."""
    if report.chip_id != endorsement.hwid.ljust(CHIP_ID_SIZE, b"\0"):
        raise SnpChipError(
            "the report is of another chip than the certificate",
            expected=endorsement.hwid.hex(),
            found=report.chip_id.hex(),
        )
