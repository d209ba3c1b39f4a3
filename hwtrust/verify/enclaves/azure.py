"""Is this quote one of a vTPM inside a genuine TEE, as Azure's confidential machines have it?

    HCL report ── TEE's report (SNP, or TDX quote) ──▶ digest ──▶ runtime data
               ── runtime data ──▶ HCLAkPub, user data, configuration
    quote      ── under HCLAkPub ──▶ PCR values            all together: AzureClaims

Rules, in the order in which they are checked (the code carries their numbers):

1. TEE        the TEE's report is authentic, by the rules of its kind.
2. VMPL       an SNP report is of VMPL 0, the paravisor's: the guest above it may have
              reports made over whatever it likes.
3. binding    its report_data are the digest of the runtime data beside it, with zeros
              behind: all 64 bytes.
4. key        the runtime data hold one RSA key named HCLAkPub, and it is strong.
5. user data  what the machine asked the TEE to vouch for is what was asked for.
6. quote      that key, and no other, signed the quote; nonce, selection and PCR values
              by the rules of `hwtrust.verify.quote`.

The TEE's report is as old as the machine's start or its last user data. What is fresh
is the quote, under a key that lives in the vTPM of that very machine. Of this key the
runtime data tell the numbers and no attributes: that it signs nothing but what the
vTPM made is the paravisor's promise, which the TEE's launch measurement covers.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from hwtrust.errors import EmptyNonceError, SignatureError, StaleQuoteError
from hwtrust.errors.azure import (
    AzureKeyError,
    AzureQuoteError,
    AzureRuntimeDataError,
    AzureTeeError,
    AzureUserDataError,
    AzureVmplError,
)
from hwtrust.errors.dcap import DcapReportDataError
from hwtrust.verify.attestation import VERIFIED, Nonce, made_elsewhere, take_away
from hwtrust.verify.attestation import Unsafe as AnySigner
from hwtrust.verify.enclaves.snp import SnpClaims, SnpTrust, verify_snp
from hwtrust.verify.enclaves.tdx import TdxClaims, verify_tdx
from hwtrust.verify.quote import PcrValues, QuoteClaims, Selection, verify_quote
from hwtrust.verify.tools_files import read_signature
from hwtrust.wire.algorithms import alg_name
from hwtrust.wire.enclaves.azure import USER_DATA_SIZE, HclReport, RuntimeData, TeeKind
from hwtrust.wire.structures import require_strong

if TYPE_CHECKING:
    from datetime import datetime

    from hwtrust.verify.enclaves.dcap import DcapTrust
    from hwtrust.wire.enclaves.dcap import Collateral, Quote

_AK: Final = "HCLAkPub"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    ANY_USER_DATA = auto()
    """The machine, not the verifier, chooses what else its TEE vouches for."""


_ANY_USER_DATA: Final = Unsafe.ANY_USER_DATA

UserData = bytes | Literal[Unsafe.ANY_USER_DATA]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTee:
    """What it takes to verify the SNP report in an HCL report."""

    certificates: Sequence[bytes]
    trust: SnpTrust


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTee:
    """The TD quote that was made of the TDREPORT in an HCL report, and its collateral."""

    quote: Quote
    collateral: Collateral
    trust: DcapTrust


Tee = SnpTee | TdxTee


class AzureClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a vTPM in a TEE vouches for, and the TEE for it; only `verify_azure` makes them."""

    tee: SnpClaims | TdxClaims
    quote: QuoteClaims
    runtime_data: RuntimeData
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """All of it in words; what the TEE says stands behind `tee_`."""
        found: dict[str, str | int | bool | list[str]] = {
            "tee": "snp" if isinstance(self.tee, SnpClaims) else "tdx",
            "nonce": self.quote.nonce.hex(),
            "pcrs": [
                f"{alg_name(bank)}:{number}:{value.hex()}"
                for bank, values in self.quote.pcrs.items()
                for number, value in values.items()
            ],
        }
        told = {f"tee_{name}": value for name, value in self.tee.facts().items()}
        return found | self.runtime_data.facts() | told


def verify_azure(
    report: bytes,
    message: bytes,
    signature: bytes,
    *,
    tee: Tee,
    nonce: Nonce,
    user_data: UserData,
    selection: Selection,
    pcrs: PcrValues,
    now: datetime,
) -> AzureClaims:
    """Check an HCL report and the quote of the vTPM that it vouches for.

    `message` is the TPMS_ATTEST, `signature` a TPMT_SIGNATURE or the bare bytes.
    `user_data` has 64 bytes at most, and zeros are put behind fewer. `now` is aware.

    Raises:
        AzureError: the parts do not belong together.
        EvidenceError: report or quote are not authentic; the class says why.
        WireError: a part is malformed, or of a kind that is not known.
    """
    hcl = HclReport.decode(report)
    # (1) to (3): TEE, VMPL and binding.
    claims = _verify_tee(hcl, tee, now)
    runtime = RuntimeData.decode(hcl.runtime_data)
    # (4): key.
    key = _attestation_key(runtime)
    # (5): user data.
    _require_user_data(runtime, user_data)
    # (6): quote.
    try:
        quote = verify_quote(
            message,
            read_signature(signature, key=key, message=message),
            key=key,
            nonce=nonce,
            selection=selection,
            pcrs=pcrs,
            signer=AnySigner.ANY_SIGNER,
        )
    except SignatureError as error:
        raise AzureQuoteError(
            "the quote was not signed by the key that the TEE's report vouches for"
        ) from error
    return AzureClaims(tee=claims, quote=quote, runtime_data=runtime, verified=VERIFIED)


def _verify_tee(hcl: HclReport, tee: Tee, now: datetime) -> SnpClaims | TdxClaims:
    if (hcl.kind is TeeKind.SNP) is not isinstance(tee, SnpTee):
        raise AzureTeeError(f"the HCL report is one of {hcl.kind.name}, its collateral is not")
    try:
        if isinstance(tee, SnpTee):
            claims = verify_snp(
                hcl.tee_report,
                certificates=tee.certificates,
                report_data=hcl.report_data,
                now=now,
                trust=tee.trust,
            )
            if claims.report.vmpl:
                raise AzureVmplError(
                    f"the SNP report is of VMPL {claims.report.vmpl}, not of the paravisor's",
                    vmpl=claims.report.vmpl,
                )
            return claims
        return verify_tdx(
            tee.quote,
            collateral=tee.collateral,
            report_data=hcl.report_data,
            now=now,
            trust=tee.trust,
        )
    except (StaleQuoteError, DcapReportDataError) as error:
        raise AzureRuntimeDataError(
            "the TEE's report vouches for other runtime data than those beside it"
        ) from error


def _attestation_key(runtime: RuntimeData) -> rsa.RSAPublicKey:
    found = [key for key in runtime.keys if key.kid == _AK]
    if len(found) != 1 or found[0].kty != "RSA":
        raise AzureKeyError(f"the runtime data have not one RSA key that is named {_AK}")
    n, e = _number(found[0].n), _number(found[0].e)
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        raise AzureKeyError(f"the key {_AK} is no RSA key") from None
    require_strong(key)
    return key


def _number(text: str) -> int:
    try:
        if not _BASE64URL.fullmatch(text):
            raise AzureKeyError(f"a number of the key {_AK} is not base64url")
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
    except binascii.Error:
        raise AzureKeyError(f"a number of the key {_AK} is not base64url") from None


def _require_user_data(runtime: RuntimeData, expected: UserData) -> None:
    if expected is _ANY_USER_DATA:
        return
    if not expected:
        raise EmptyNonceError("the user data are empty: the TEE may vouch for anything")
    if not compare_digest(runtime.user_bytes, expected.ljust(USER_DATA_SIZE, b"\0")):
        raise AzureUserDataError("the TEE vouches for other user data than were asked for")
