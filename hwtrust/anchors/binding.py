"""Whether evidence answers the request that was just made, as far as the asker can see.

The verifier decides what is authentic. This catches, where it happens, evidence that was
cut short, or that was made for somebody else's report data.
"""

from __future__ import annotations

from typing import Final

from hwtrust.anchors.protocols import REPORT_DATA_SIZE, Kind
from hwtrust.errors.anchors import (
    AnchorResponseError,
    AnchorStaleError,
    EmptyReportError,
    ReportDataError,
)

SNP_REPORT_SIZE: Final = 1184
_SNP_REPORT_DATA: Final = 0x50

# DCAP quotes: a header of 48 bytes, whose first two are the version, and the report.
_SGX_REPORT_DATA: Final = 48 + 320
_TDX_REPORT_DATA: Final = {4: 48 + 520, 5: 48 + 6 + 520}


def require_report_data(report_data: bytes) -> None:
    """Refuse report data of another size than 64 bytes.

    Raises:
        ReportDataError: it is.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise ReportDataError(
            f"report data has {REPORT_DATA_SIZE} bytes, not {len(report_data)}",
            size=len(report_data),
        )


def require_answer(kind: Kind, evidence: bytes, report_data: bytes) -> None:
    """Refuse evidence that is empty, short, or does not hold the report data.

    Raises:
        EmptyReportError: it is empty.
        AnchorResponseError: it is too short, or for SNP of another size.
        AnchorStaleError: it holds other report data.
    """
    if not evidence:
        raise EmptyReportError(f"the {kind} anchor gave no evidence", kind=kind)
    if kind is Kind.SNP and len(evidence) != SNP_REPORT_SIZE:
        raise AnchorResponseError(
            f"an SNP report has {SNP_REPORT_SIZE} bytes, not {len(evidence)}", size=len(evidence)
        )
    offset = _offset(kind, evidence)
    if offset is None:
        bound = report_data in evidence
    else:
        if len(evidence) < offset + len(report_data):
            raise AnchorResponseError(
                f"the evidence of the {kind} anchor ends after {len(evidence)} bytes",
                kind=kind,
                size=len(evidence),
            )
        bound = evidence[offset : offset + len(report_data)] == report_data
    if not bound:
        raise AnchorStaleError(
            f"the evidence of the {kind} anchor was made for other report data", kind=kind
        )


def _offset(kind: Kind, evidence: bytes) -> int | None:
    """Where the report data stands; None where the form does not fix it."""
    if kind is Kind.SNP:
        return _SNP_REPORT_DATA
    if kind is Kind.SGX:
        return _SGX_REPORT_DATA
    if kind is Kind.TDX:
        # Neither version: a quote in DICE form, which has the report data somewhere.
        return _TDX_REPORT_DATA.get(int.from_bytes(evidence[:2], "little"))
    return None
