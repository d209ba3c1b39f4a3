"""Is this SGX quote authentic, and what does it say of the enclave?

    Quote + Collateral ── verify_sgx ──▶ SgxClaims ── appraise_sgx ──▶ findings

Rules, in the order in which they are checked (the code carries their numbers):

1. quote        a platform of Intel's signed it: `hwtrust.verify.enclaves.dcap`.
2. report data  the 64 bytes are what was asked for, with zeros behind it.

What the claims say comes from the signed bytes as hwtrust decodes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hwtrust.errors import UnsupportedError
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.verify.enclaves.dcap import (
    DcapPlatform,
    ReportData,
    require_report_data,
    verify_quote,
)
from hwtrust.wire.enclaves.dcap import EnclaveReport, Tee

if TYPE_CHECKING:
    from datetime import datetime

    from hwtrust.verify.enclaves.dcap_chain import DcapTrust
    from hwtrust.wire.enclaves.dcap import Collateral, Facts, Quote


class SgxClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an authentic quote says of an enclave; only `verify_sgx` makes them."""

    report: EnclaveReport
    platform: DcapPlatform
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    @property
    def report_data(self) -> bytes:
        """What the enclave had bound into the quote, 64 bytes."""
        return self.report.report_data

    def facts(self) -> Facts:
        """What they say, for people and programs."""
        platform = self.platform.facts()
        # The report names its own CPUSVN; the certificate's is that of its platform.
        return {**self.report.facts(), **platform, "cpu_svn": self.report.cpu_svn.hex()}


def verify_sgx(
    quote: Quote,
    *,
    collateral: Collateral,
    report_data: ReportData,
    now: datetime,
    trust: DcapTrust,
) -> SgxClaims:
    """Check that `quote` is an authentic quote of an enclave over `report_data`; `now` is aware.

    `report_data` has 64 bytes at most; shorter ones stand for themselves with zeros
    behind, as enclaves pad them.

    Raises:
        EvidenceError: the quote is not authentic; the class says why.
        WireError: a certificate or other part of it cannot be read.
    """
    # (1): quote.
    platform = verify_quote(quote, Tee.SGX, collateral=collateral, now=now, trust=trust)
    report = quote.report
    if not isinstance(report, EnclaveReport):
        raise UnsupportedError("an SGX quote without the report of an enclave")
    # (2): report data.
    require_report_data(report.report_data, report_data)
    return SgxClaims(report=report, platform=platform, verified=VERIFIED)
