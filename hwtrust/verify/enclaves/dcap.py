"""Has a platform of Intel's signed this quote, and in which state is the platform?

    Quote, Collateral, root ── verify_quote ──▶ DcapPlatform

The signatures, the TCB levels and the identity of the quoting enclave are judged by
dcap-qvl, which only this module imports. It gets bytes and a time, and fetches
nothing. That it accepts a quote is no appraisal. Rules:

1. Nothing reaches dcap-qvl that hwtrust has not decoded itself, in all its parts.
2. Certificates are as `hwtrust.verify.enclaves.dcap_chain` wants them.
3. dcap-qvl must have read the report as hwtrust did.
4. The TCB info is for the platform's FMSPC and its PCE.
5. Whatever dcap-qvl answers or raises, a panic included, becomes an error of ours.

Debug mode, a TD without SEPT_VE_DISABLE or with a service TD, and a revoked TCB are
refused by dcap-qvl itself: there is no claim about such a quote.
"""

from __future__ import annotations

from enum import Enum, auto
from hmac import compare_digest
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

import dcap_qvl  # type: ignore[import-untyped]  # it ships no py.typed
import msgspec

from hwtrust.errors import EmptyNonceError
from hwtrust.errors.dcap import (
    DcapAttributesError,
    DcapChainError,
    DcapCollateralError,
    DcapDebugError,
    DcapError,
    DcapExpiredError,
    DcapModuleError,
    DcapPlatformError,
    DcapQuotingEnclaveError,
    DcapReportDataError,
    DcapRevokedError,
    DcapSignatureError,
    DcapTcbError,
    DcapVerifierError,
)
from hwtrust.verify.enclaves.dcap_chain import INTEL, DcapTrust, checked_root
from hwtrust.wire.enclaves.dcap import REPORT_DATA_SIZE, EnclaveReport, TcbInfo, Tee

if TYPE_CHECKING:
    from datetime import datetime

    from hwtrust.wire.enclaves.dcap import Collateral, Facts, Quote

__all__ = [
    "INTEL",
    "DcapPlatform",
    "DcapTrust",
    "ReportData",
    "Unsafe",
    "require_report_data",
    "verify_quote",
]


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    NO_REPORT_DATA = auto()
    """The quote may be a replay of any age, made for any purpose."""


_NO_REPORT_DATA: Final = Unsafe.NO_REPORT_DATA
ReportData = bytes | Literal[Unsafe.NO_REPORT_DATA]


class DcapPlatform(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What Intel says of the platform of an authentic quote.

    Three flags of the platform are None where its certificate does not say.
    """

    tcb_status: str
    """The worst of those of platform, TDX module and quoting enclave."""
    platform_tcb_status: str
    qe_tcb_status: str
    advisory_ids: tuple[str, ...]
    """Of Intel's security advisories that apply to any of the three."""
    tcb_evaluation_data_number: int
    """The lower one of TCB info and QE identity."""
    collateral_expires: int
    """UTC milliseconds: when the first part of the collateral does."""
    fmspc: bytes
    pce_id: bytes
    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    sgx_type: int
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None

    def facts(self) -> Facts:
        """What it says, for people and programs."""
        found: Facts = {}
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, tuple):
                found[name] = list(value)
            elif value is not None:
                found[name] = value.hex() if isinstance(value, bytes) else value
        return found


def verify_quote(
    quote: Quote, tee: Tee, *, collateral: Collateral, now: datetime, trust: DcapTrust
) -> DcapPlatform:
    """Check that a platform of `tee` that leads to `trust` signed `quote`; `now` is aware.

    Raises:
        EvidenceError: the quote is not authentic; the class says why.
        WireError: a certificate, list or the TCB info cannot be read.
    """
    if quote.tee is not tee:
        raise DcapPlatformError(f"a quote by {quote.tee.name}, asked for is one by {tee.name}")
    # (1): what was decoded before dcap-qvl sees it.
    info = TcbInfo.decode(collateral.tcb_info)
    # (2): certificates.
    root = checked_root(quote, collateral, now=now, trust=trust)
    claims = _asked(quote, collateral, root, now)
    # (3): one reading.
    _require_same_reading(quote, claims.report)
    # (4): FMSPC and PCE.
    pck = claims.platform.pck
    fmspc, pce_id = bytes(pck.fmspc), bytes(pck.pce_id)
    if info.fmspc.lower() != fmspc.hex() or info.pce_id.lower() != pce_id.hex():
        raise DcapPlatformError("the TCB info is for another FMSPC or PCE than the platform's")
    return DcapPlatform(
        tcb_status=claims.tcb.status,
        platform_tcb_status=claims.platform.tcb_level.tcb_status,
        qe_tcb_status=claims.qe.tcb_level.tcb_status,
        advisory_ids=tuple(
            dict.fromkeys(
                (
                    *claims.tcb.advisory_ids,
                    *claims.platform.tcb_level.advisory_ids,
                    *claims.qe.tcb_level.advisory_ids,
                )
            )
        ),
        tcb_evaluation_data_number=min(claims.tcb.eval_data_number, claims.qe.tcb_eval_data_number),
        collateral_expires=1000
        * min(claims.earliest_expiration_date, claims.qe_iden_earliest_expiration_date),
        fmspc=fmspc,
        pce_id=pce_id,
        ppid=bytes(pck.ppid),
        cpu_svn=bytes(pck.cpu_svn),
        pce_svn=pck.pce_svn,
        sgx_type=pck.sgx_type,
        dynamic_platform=_FLAG[pck.dynamic_platform],
        cached_keys=_FLAG[pck.cached_keys],
        smt_enabled=_FLAG[pck.smt_enabled],
    )


def require_report_data(found: bytes, expected: ReportData) -> None:
    """Check that `found`, 64 signed bytes, is `expected` with zeros behind it.

    Raises:
        EmptyNonceError: `expected` binds nothing.
        DcapReportDataError: the quote answers something else.
    """
    if expected is _NO_REPORT_DATA:
        return
    if not expected.strip(b"\0"):
        raise EmptyNonceError("the report data is empty: whatever answers it may be of any age")
    if not compare_digest(found, expected.ljust(REPORT_DATA_SIZE, b"\0")):
        raise DcapReportDataError("the quote has other report data than what was asked for")


# --- what dcap-qvl checks ------------------------------------------------------------

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Level(msgspec.Struct, rename={"tcb_status": "tcbStatus", "advisory_ids": "advisoryIDs"}):
    tcb_status: str
    advisory_ids: list[str] = msgspec.field(default_factory=list)


class _Tcb(msgspec.Struct):
    status: str
    advisory_ids: list[str]
    eval_data_number: int


class _Pck(msgspec.Struct):
    ppid: list[_Byte]
    cpu_svn: list[_Byte]
    pce_svn: int
    pce_id: list[_Byte]
    fmspc: list[_Byte]
    sgx_type: int
    dynamic_platform: Literal["True", "False", "Undefined"]
    cached_keys: Literal["True", "False", "Undefined"]
    smt_enabled: Literal["True", "False", "Undefined"]


class _Platform(msgspec.Struct):
    tcb_level: _Level
    pck: _Pck


class _Qe(msgspec.Struct):
    tcb_level: _Level
    tcb_eval_data_number: int


class _Claims(msgspec.Struct):
    tcb: _Tcb
    platform: _Platform
    qe: _Qe
    earliest_expiration_date: int
    qe_iden_earliest_expiration_date: int
    report: dict[str, dict[str, Any]]


_FLAG: Final[dict[str, bool | None]] = {"True": True, "False": False, "Undefined": None}

_REFUSALS: Final[tuple[tuple[str, type[DcapError]], ...]] = (
    ("Debug mode is enabled", DcapDebugError),
    ("SEPT_VE_DISABLE", DcapAttributesError),
    ("Reserved bits in TD attributes", DcapAttributesError),
    ("MR service TD", DcapAttributesError),
    ("ISV enclave report signature", DcapSignatureError),
    ("Signature is invalid for qe_report", DcapSignatureError),
    ("QE report hash mismatch", DcapSignatureError),
    ("Invalid QE auth data length", DcapSignatureError),
    ("Signature is invalid for", DcapCollateralError),
    ("Invalid key length", DcapCollateralError),
    ("Failed to decode TcbInfo", DcapCollateralError),
    ("Failed to decode QeIdentity", DcapCollateralError),
    ("No TCB levels found in QE Identity", DcapCollateralError),
    ("Unrecognized TCB status", DcapCollateralError),
    ("TCBInfo expired", DcapExpiredError),
    ("QE Identity expired", DcapExpiredError),
    ("issue date is in the future", DcapExpiredError),
    ("CrlExpired", DcapExpiredError),
    ("issue date", DcapCollateralError),
    ("next update", DcapCollateralError),
    ("tcbDate", DcapCollateralError),
    ("TCB FMSPC", DcapCollateralError),
    ("CertRevoked", DcapRevokedError),
    ("Fmspc mismatch", DcapPlatformError),
    ("QE Identity id/version", DcapPlatformError),
    ("TCB info in the collateral", DcapPlatformError),
    ("Unknown QE vendor", DcapQuotingEnclaveError),
    ("QE MRSIGNER", DcapQuotingEnclaveError),
    ("QE ISVPRODID", DcapQuotingEnclaveError),
    ("QE MISCSELECT", DcapQuotingEnclaveError),
    ("QE ATTRIBUTES", DcapQuotingEnclaveError),
    ("QE ISVSVN", DcapQuotingEnclaveError),
    ("QE report validation failed", DcapQuotingEnclaveError),
    ("TDX module", DcapModuleError),
    ("No matching TCB level", DcapTcbError),
    ("TCB status is invalid", DcapTcbError),
    ("certificate chain", DcapChainError),
    ("Certificate chain", DcapChainError),
    ("Failed to parse", DcapChainError),
    ("root ca", DcapChainError),
)
"""What dcap-qvl says, and what it means; the first that fits decides."""

_PANIC: Final = "pyo3_runtime"
"""The module that a panic in Rust says it is of: a BaseException beside all others."""


def _asked(quote: Quote, collateral: Collateral, root: bytes, now: datetime) -> _Claims:
    """What dcap-qvl says of `quote`."""
    seconds = int(now.timestamp())
    try:
        claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(
            quote.raw,
            dcap_qvl.QuoteCollateralV3(**msgspec.structs.asdict(collateral)),
            seconds,
            dcap_qvl.QuotePolicy.claims_only(seconds),
        )
        return msgspec.json.decode(claims.to_json(), type=_Claims)
    except ValueError as error:
        _refuse(error)
    # (5): whatever else.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != _PANIC:
            raise
        raise DcapVerifierError(f"dcap-qvl failed: {_cut(error)}") from None


def _refuse(error: ValueError) -> NoReturn:
    said = _cut(error)
    if isinstance(error, msgspec.ValidationError | msgspec.DecodeError):
        raise DcapVerifierError(f"the claims of dcap-qvl cannot be read: {said}") from None
    for part, refusal in _REFUSALS:
        if part in said:
            raise refusal(f"dcap-qvl refuses the quote: {said}") from None
    raise DcapError(f"dcap-qvl refuses the quote: {said}") from None


def _cut(error: BaseException) -> str:
    return str(error).removeprefix("Verification failed: ")[:300]


def _require_same_reading(quote: Quote, report: dict[str, dict[str, Any]]) -> None:
    (kind, read), *others = report.items() or [("", {})]
    ours = quote.report
    if isinstance(ours, EnclaveReport):
        same = kind == "SgxEnclave" and _says(
            read,
            cpu_svn=ours.cpu_svn,
            attributes=_flags(ours.attributes) + _flags(ours.xfrm),
            mr_enclave=ours.mr_enclave,
            mr_signer=ours.mr_signer,
            report_data=ours.report_data,
            # To dcap-qvl these are reserved, together with what is.
            reserved1=bytes(12) + ours.isv_ext_prod_id,
            reserved3=bytes(32) + ours.config_id,
            reserved4=ours.config_svn.to_bytes(2, "little") + bytes(42) + ours.isv_family_id,
        )
        same = same and (read.get("isv_prod_id"), read.get("isv_svn"), read.get("misc_select")) == (
            ours.isv_prod_id,
            ours.isv_svn,
            ours.misc_select,
        )
    else:
        is_15 = bool(ours.tee_tcb_svn2)
        base = read.get("base", {}) if is_15 else read
        same = kind == ("TD15" if is_15 else "TD10") and _says(
            base,
            tee_tcb_svn=ours.tee_tcb_svn,
            mr_seam=ours.mr_seam,
            mr_signer_seam=ours.mr_signer_seam,
            seam_attributes=_flags(ours.seam_attributes),
            td_attributes=_flags(ours.td_attributes),
            xfam=_flags(ours.xfam),
            mr_td=ours.mr_td,
            mr_config_id=ours.mr_config_id,
            mr_owner=ours.mr_owner,
            mr_owner_config=ours.mr_owner_config,
            **{f"rt_mr{number}": value for number, value in enumerate(ours.rtmrs)},
            report_data=ours.report_data,
        )
        same = same and (
            not is_15
            or _says(read, tee_tcb_svn2=ours.tee_tcb_svn2, mr_service_td=ours.mr_service_td)
        )
    if others or not same:
        raise DcapVerifierError("dcap-qvl has read the report of the quote in another way")


def _says(read: dict[str, Any], **ours: bytes) -> bool:
    return all(read.get(name) == value.hex() for name, value in ours.items())


def _flags(value: int) -> bytes:
    return value.to_bytes(8, "little")
