"""Is this TDX quote authentic, and what does it say of the TD?

    Quote + Collateral ── verify_tdx ──▶ TdxClaims ── appraise_tdx ──▶ findings

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
from hwtrust.wire.enclaves.dcap import TdReport, Tee

if TYPE_CHECKING:
    from datetime import datetime

    from hwtrust.verify.enclaves.dcap_chain import DcapTrust
    from hwtrust.wire.enclaves.dcap import Collateral, Facts, Quote


class TdxClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an authentic quote says of a TD; only `verify_tdx` makes them."""

    report: TdReport
    platform: DcapPlatform
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    @property
    def report_data(self) -> bytes:
        """What the TD had bound into the quote, 64 bytes."""
        return self.report.report_data

    def facts(self) -> Facts:
        """What they say, for people and programs."""
        return {**self.report.facts(), **self.platform.facts()}


def verify_tdx(
    quote: Quote,
    *,
    collateral: Collateral,
    report_data: ReportData,
    now: datetime,
    trust: DcapTrust,
) -> TdxClaims:
    """Check that `quote` is an authentic quote of a TD over `report_data`; `now` is aware.

    `report_data` has 64 bytes at most; shorter ones stand for themselves with zeros
    behind, as TDs pad them.

    Raises:
        EvidenceError: the quote is not authentic; the class says why.
        WireError: a certificate or other part of it cannot be read.
    """
    # (1): quote.
    platform = verify_quote(quote, Tee.TDX, collateral=collateral, now=now, trust=trust)
    report = quote.report
    if not isinstance(report, TdReport):
        raise UnsupportedError("a TDX quote without the report of a TD")
    # (2): report data.
    require_report_data(report.report_data, report_data)
    return TdxClaims(report=report, platform=platform, verified=VERIFIED)
