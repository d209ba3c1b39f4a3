"""TDX and SGX quotes: authentic means signed by a platform of Intel's, now, over this report data.

Everything is signed for real under a root of the tests, so that each check can be
reached, those of dcap-qvl as well as ours.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import dcap_qvl  # type: ignore[import-untyped]  # it ships no py.typed
import msgspec
import pytest

from hwtrust.errors import EmptyNonceError, HwTrustError, MalformedError
from hwtrust.errors.dcap import (
    DcapAttributesError,
    DcapCertificationError,
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
from hwtrust.verify.attestation import VERIFIED
from hwtrust.verify.enclaves.dcap import INTEL, DcapTrust, Unsafe
from hwtrust.verify.enclaves.sgx import SgxClaims, verify_sgx
from hwtrust.verify.enclaves.tdx import TdxClaims, verify_tdx
from hwtrust.wire.enclaves.dcap import Collateral, Quote
from simulators.dcap_signer import (
    END,
    ISSUED,
    NEXT,
    NOW,
    SEPT_VE_DISABLE,
    START,
    TEE_TCB_SVN,
    DcapSigner,
    Platform,
    certify,
    enclave_report,
    raw_signature,
    revocation_list,
    stamp,
    td_report,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNER = DcapSigner()
OTHER = DcapSigner(seed="other")
DATA = bytes(range(64))
DAY = timedelta(days=1)
GOOD: dict[str, Any] = {"report_data": DATA, "now": NOW, "trust": DcapTrust.of(SIGNER.root.der)}
SGX = SIGNER.sgx(
    enclave_report(
        report_data=DATA,
        isv_ext_prod_id=b"e" * 16,
        config_id=b"c" * 64,
        config_svn=0x1234,
        isv_family_id=b"f" * 16,
    )
)
TDX = SIGNER.tdx(td_report(report_data=DATA))
TDX_15 = SIGNER.tdx(td_report(report_data=DATA, tee_tcb_svn2=TEE_TCB_SVN), version=5)
FOR_SGX = SIGNER.collateral("sgx")
FOR_TDX = SIGNER.collateral("tdx")


def sgx(quote: bytes = SGX, collateral: bytes = FOR_SGX, **options: Any) -> SgxClaims:  # noqa: ANN401
    """Verify an SGX quote; what is not given is good."""
    return verify_sgx(
        Quote.decode(quote), collateral=Collateral.decode(collateral), **(GOOD | options)
    )


def tdx(quote: bytes = TDX, collateral: bytes = FOR_TDX, **options: Any) -> TdxClaims:  # noqa: ANN401
    """Verify a TDX quote; what is not given is good."""
    return verify_tdx(
        Quote.decode(quote), collateral=Collateral.decode(collateral), **(GOOD | options)
    )


def by(signer: DcapSigner, **options: Any) -> SgxClaims:  # noqa: ANN401
    """Verify a quote and collateral of another Intel, whose root is trusted."""
    quote = signer.sgx(enclave_report(report_data=DATA))
    return sgx(quote, signer.collateral("sgx"), trust=DcapTrust.of(signer.root.der), **options)


# --- what passes ---------------------------------------------------------------------


def test_a_good_sgx_quote_gives_what_it_says_and_what_intel_says_of_its_platform() -> None:
    """From the signed bytes, and from the collateral."""
    claims = sgx()
    assert claims.report == Quote.decode(SGX).report
    assert claims.report_data == DATA
    platform = claims.platform
    assert platform.tcb_status == platform.platform_tcb_status == "UpToDate"
    assert platform.qe_tcb_status == "UpToDate"
    assert platform.advisory_ids == ()
    assert platform.fmspc.hex() == "b0c06f000000"
    assert platform.pce_id == bytes(2)
    assert platform.ppid == bytes(range(16))
    assert platform.cpu_svn == SIGNER.platform.svns
    assert platform.pce_svn == 13
    assert not any((platform.dynamic_platform, platform.cached_keys, platform.smt_enabled))
    assert platform.tcb_evaluation_data_number == 18
    assert platform.collateral_expires == int(NEXT.timestamp()) * 1000
    facts = claims.facts()
    assert facts["tcb_status"] == "UpToDate"
    assert facts["mr_enclave"] == claims.report.mr_enclave.hex()
    assert facts["cpu_svn"] == claims.report.cpu_svn.hex()


@pytest.mark.parametrize(
    "quote",
    [TDX, SIGNER.tdx(td_report(report_data=DATA), version=5), TDX_15, TDX + bytes(70)],
    ids=["version 4", "version 5", "TDX 1.5", "with padding"],
)
def test_a_good_tdx_quote_gives_what_it_says(quote: bytes) -> None:
    """In each version, and with the padding that providers leave."""
    claims = tdx(quote)
    assert claims.report == Quote.decode(quote).report
    assert claims.report_data == DATA
    assert claims.facts()["fmspc"] == "b0c06f000000"
    assert claims.facts()["mr_td"] == claims.report.mr_td.hex()


def test_statuses_and_advisories_are_told_and_do_not_refuse() -> None:
    """What is out of date is authentic all the same; rules say what is acceptable."""
    claims = tdx(
        collateral=SIGNER.collateral(
            "tdx",
            status="SWHardeningNeeded",
            advisories=("INTEL-SA-00002", "INTEL-SA-00001"),
            qe_status="OutOfDate",
            qe_advisories=("INTEL-SA-00003", "INTEL-SA-00001"),
            qe_identity={"tcbEvaluationDataNumber": 16},
        )
    )
    assert claims.platform.tcb_status == "OutOfDate"
    assert claims.platform.platform_tcb_status == "SWHardeningNeeded"
    assert claims.platform.qe_tcb_status == "OutOfDate"
    assert set(claims.platform.advisory_ids) == {f"INTEL-SA-0000{n}" for n in (1, 2, 3)}
    assert len(claims.platform.advisory_ids) == 3
    assert claims.platform.tcb_evaluation_data_number == 16


def test_an_old_platform_is_told_by_its_level() -> None:
    """The level that it reaches, not the best one there is."""
    signer = DcapSigner(platform=Platform(pce_svn=6))
    quote = signer.sgx(enclave_report(report_data=DATA))
    claims = sgx(quote, FOR_SGX, trust=DcapTrust.of(signer.root.der))
    assert claims.platform.tcb_status == "OutOfDate"
    assert claims.platform.advisory_ids == ("INTEL-SA-00001",)


def test_flags_of_the_platform_come_from_its_certificate() -> None:
    """Each of the three."""
    claims = by(DcapSigner(platform=Platform(dynamic=True, smt=True)))
    assert claims.platform.dynamic_platform is True
    assert claims.platform.cached_keys is False
    assert claims.platform.smt_enabled is True
    assert by(DcapSigner(platform=Platform(cached_keys=True))).platform.cached_keys is True


def test_claims_are_made_by_verification_alone() -> None:
    """Nor can a copy with other contents pass for what was verified."""
    for claims in (sgx(), tdx()):
        assert claims.verified is not VERIFIED
        with pytest.raises(TypeError):
            msgspec.structs.replace(claims, platform=claims.platform)


def test_the_pinned_root_is_not_that_of_the_tests() -> None:
    """Quotes of the simulator are worth nothing in the field."""
    with pytest.raises(DcapChainError):
        sgx(trust=INTEL)


# --- report data ---------------------------------------------------------------------


@pytest.mark.parametrize("verify", [sgx, tdx])
def test_a_quote_over_other_report_data_is_refused(verify: Callable[..., object]) -> None:
    """A replay, or made for another purpose."""
    for other in (bytes(63) + b"\1", DATA[:63], DATA[:63] + b"\0", DATA + b"\0", b"\1"):
        with pytest.raises(DcapReportDataError) as caught:
            verify(report_data=other)
        assert caught.value.code == "evidence:dcap:report-data"


@pytest.mark.parametrize("empty", [b"", bytes(32), bytes(64)])
def test_empty_report_data_is_refused(empty: bytes) -> None:
    """Also where the quote has none either."""
    for verify, quote in ((sgx, SIGNER.sgx()), (tdx, SIGNER.tdx())):
        with pytest.raises(EmptyNonceError):
            verify(quote, report_data=empty)


def test_report_data_that_is_shorter_stands_with_zeros_behind_it() -> None:
    """As enclaves pad it; with anything else behind it, it is refused."""
    short = b"Hello, world!"
    assert sgx(
        SIGNER.sgx(enclave_report(report_data=short.ljust(64, b"\0"))), report_data=short
    ).report_data.startswith(short)
    with pytest.raises(DcapReportDataError):
        sgx(SIGNER.sgx(enclave_report(report_data=short.ljust(64, b"!"))), report_data=short)


def test_report_data_may_be_left_unchecked_only_by_its_unsafe_name() -> None:
    """And None is no such name."""
    assert tdx(report_data=Unsafe.NO_REPORT_DATA).report_data == DATA
    with pytest.raises((TypeError, AttributeError)):
        tdx(report_data=None)


# --- what is refused -----------------------------------------------------------------


def with_info(info: str) -> bytes:
    """Collateral whose TCB info is that very text, signed."""
    signature = raw_signature(SIGNER.tcb.key, info.encode()).hex()
    changes = {"tcb_info": info, "tcb_info_signature": signature}
    return json.dumps(json.loads(FOR_SGX) | changes).encode()


def flipped(raw: bytes, at: int) -> bytes:
    """`raw` with one bit changed."""
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


QE = 48 + 384 + 4 + 128
"""Where the quoting enclave's report is in a quote of version 3."""
LATE = stamp(NOW - DAY)
EARLY = stamp(NOW + DAY)
MODULE = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}

REFUSED: dict[str, tuple[Callable[[], object], type[HwTrustError]]] = {
    # Signatures.
    "a changed report": (lambda: sgx(flipped(SGX, 48 + 64)), DcapSignatureError),
    "a changed header": (lambda: sgx(flipped(SGX, 30)), DcapSignatureError),
    "a changed signature": (lambda: sgx(flipped(SGX, 440)), DcapSignatureError),
    "a changed report of the quoting enclave": (
        lambda: sgx(flipped(SGX, QE + 64)),
        DcapSignatureError,
    ),
    "another attestation key": (
        lambda: sgx(SIGNER.sgx(qe={"report_data": bytes(64)})),
        DcapSignatureError,
    ),
    "other data of the quoting enclave": (
        lambda: sgx(SIGNER.sgx(auth_data=b"abc")),
        DcapSignatureError,
    ),
    "changed TCB info": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info_signature="01" * 64)),
        DcapCollateralError,
    ),
    "a changed QE identity": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", qe_identity_signature="01" * 64)),
        DcapCollateralError,
    ),
    "a signature of no length": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", qe_identity_signature="")),
        DcapCollateralError,
    ),
    # Chains.
    "a quote by a platform under another root": (
        lambda: sgx(OTHER.sgx()),
        DcapChainError,
    ),
    "collateral under another root": (
        lambda: sgx(collateral=OTHER.collateral("sgx")),
        DcapChainError,
    ),
    "a chain of another platform, swapped into the quote": (
        lambda: sgx(SIGNER.sgx(chain=DcapSigner(seed="pck2").chain)),
        DcapChainError,
    ),
    "another platform's certificate under the same root": (
        lambda: sgx(
            SIGNER.sgx(
                chain=certify(
                    SIGNER.pck_name,
                    SIGNER.ca,
                    key="another platform",
                    extension=SIGNER.platform.extension(),
                ).pem
                + SIGNER.ca.pem
                + SIGNER.root.pem
            )
        ),
        DcapSignatureError,
    ),
    "a CA that is not of the root, with the root behind it": (
        lambda: sgx(SIGNER.sgx(chain=OTHER.pck.pem + OTHER.ca.pem + SIGNER.root.pem)),
        DcapChainError,
    ),
    "a chain without the root": (
        lambda: sgx(SIGNER.sgx(chain=SIGNER.pck.pem + SIGNER.ca.pem)),
        DcapChainError,
    ),
    "a chain in another order": (
        lambda: sgx(SIGNER.sgx(chain=SIGNER.ca.pem + SIGNER.pck.pem + SIGNER.root.pem)),
        DcapChainError,
    ),
    "a chain that is longer": (
        lambda: sgx(SIGNER.sgx(chain=SIGNER.pck.pem + SIGNER.chain)),
        DcapChainError,
    ),
    "a certificate under a label that hides it": (
        lambda: sgx(
            SIGNER.sgx(
                chain=SIGNER.pck.pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE") + SIGNER.chain
            )
        ),
        DcapChainError,
    ),
    "a chain of beginnings alone": (
        lambda: sgx(SIGNER.sgx(chain=b"-----BEGIN CERTIFICATE-----\n" * 3)),
        DcapChainError,
    ),
    "an empty chain": (lambda: sgx(SIGNER.sgx(chain=b"")), DcapChainError),
    "an empty chain of the collateral": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info_issuer_chain="")),
        DcapChainError,
    ),
    "a platform that signs its own TCB info": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", tcb_info_issuer_chain=(SIGNER.pck.pem + SIGNER.root.pem).decode()
            )
        ),
        DcapChainError,
    ),
    "TCB info by whom the root has certified for something else": (
        lambda: by(DcapSigner(tcb_name="Intel SGX Something Else")),
        DcapChainError,
    ),
    "a platform whose certificate is named for something else": (
        lambda: by(DcapSigner(pck_name="Intel SGX TCB Signing")),
        DcapChainError,
    ),
    "a CA that is named for something else": (
        lambda: by(DcapSigner(ca_name="Intel SGX Something CA")),
        DcapChainError,
    ),
    "a chain that cannot be read": (
        lambda: sgx(
            SIGNER.sgx(
                chain=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 2
                + SIGNER.root.pem
            )
        ),
        MalformedError,
    ),
    "certification data without certificates": (
        lambda: sgx(SIGNER.sgx(certification=3, chain=bytes(404))),
        DcapCertificationError,
    ),
    "a single certificate as certification data": (
        lambda: sgx(SIGNER.sgx(certification=4)),
        DcapCertificationError,
    ),
    # Revocation.
    "a platform that is revoked": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", pck_crl=revocation_list(SIGNER.ca, SIGNER.pck).hex()
            )
        ),
        DcapRevokedError,
    ),
    "a CA that is revoked": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", root_ca_crl=revocation_list(SIGNER.root, SIGNER.ca).hex()
            )
        ),
        DcapRevokedError,
    ),
    "TCB signing that is revoked": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", root_ca_crl=revocation_list(SIGNER.root, SIGNER.tcb).hex()
            )
        ),
        DcapRevokedError,
    ),
    "a root that is revoked": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", root_ca_crl=revocation_list(SIGNER.root, SIGNER.root).hex()
            )
        ),
        DcapRevokedError,
    ),
    "a list of another CA": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", pck_crl=revocation_list(OTHER.root).hex())),
        DcapChainError,
    ),
    "a list under the CA's name that it did not sign": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", pck_crl=revocation_list(OTHER.ca).hex())),
        DcapChainError,
    ),
    "no list at all": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", pck_crl="")),
        MalformedError,
    ),
    # Time.
    "a list that is out of date": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", pck_crl=revocation_list(SIGNER.ca, next_update=NOW).hex()
            )
        ),
        DcapExpiredError,
    ),
    "a list of the root that is out of date": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", root_ca_crl=revocation_list(SIGNER.root, next_update=NOW).hex()
            )
        ),
        DcapExpiredError,
    ),
    "a list of tomorrow": (
        lambda: sgx(
            collateral=SIGNER.collateral(
                "sgx", pck_crl=revocation_list(SIGNER.ca, issued=NOW + DAY).hex()
            )
        ),
        DcapExpiredError,
    ),
    "TCB info that is out of date": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info={"nextUpdate": LATE})),
        DcapExpiredError,
    ),
    "TCB info of tomorrow": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info={"issueDate": EARLY})),
        DcapExpiredError,
    ),
    "a QE identity that is out of date": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", qe_identity={"nextUpdate": LATE})),
        DcapExpiredError,
    ),
    "a QE identity of tomorrow": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", qe_identity={"issueDate": EARLY})),
        DcapExpiredError,
    ),
    "a platform's certificate that is out of date": (
        lambda: by(DcapSigner(pck_not_after=NOW - DAY)),
        DcapExpiredError,
    ),
    "a root that is out of date": (
        lambda: by(DcapSigner(root_not_after=NOW - DAY)),
        DcapExpiredError,
    ),
    "everything, a month later": (lambda: sgx(now=NEXT + DAY), DcapExpiredError),
    "everything, before it was made": (lambda: sgx(now=ISSUED - DAY), DcapExpiredError),
    "everything, before the root was made": (lambda: sgx(now=START - DAY), DcapExpiredError),
    "everything, after the end": (lambda: tdx(now=END + DAY), DcapExpiredError),
    # Platform.
    "TCB info of another FMSPC": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info={"fmspc": "00" * 6})),
        DcapPlatformError,
    ),
    "TCB info of another PCE": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info={"pceId": "0001"})),
        DcapPlatformError,
    ),
    "collateral of the other TEE": (lambda: sgx(collateral=FOR_TDX), DcapPlatformError),
    "TCB info of the other TEE": (
        lambda: sgx(
            collateral=SIGNER.collateral("sgx", tcb_info={"id": "TDX", "tdxModule": MODULE})
        ),
        DcapPlatformError,
    ),
    "an SGX quote in the place of a TD's": (lambda: tdx(SGX, FOR_SGX), DcapPlatformError),
    "a TDX quote in the place of an enclave's": (lambda: sgx(TDX, FOR_TDX), DcapPlatformError),
    # Quoting enclave.
    "a quoting enclave of somebody else": (
        lambda: sgx(SIGNER.sgx(qe={"mr_signer": bytes(32)})),
        DcapQuotingEnclaveError,
    ),
    "another product as quoting enclave": (
        lambda: sgx(SIGNER.sgx(qe={"isv_prod_id": 9})),
        DcapQuotingEnclaveError,
    ),
    "a quoting enclave that is too old": (
        lambda: sgx(SIGNER.sgx(qe={"isv_svn": 1})),
        DcapQuotingEnclaveError,
    ),
    "a quoting enclave with extended features": (
        lambda: sgx(SIGNER.sgx(qe={"misc_select": 1})),
        DcapQuotingEnclaveError,
    ),
    "a quoting enclave with other attributes": (
        lambda: sgx(SIGNER.sgx(qe={"attributes": 0x35})),
        DcapQuotingEnclaveError,
    ),
    "a quoting enclave in debug mode": (
        lambda: sgx(SIGNER.sgx(qe={"attributes": 0x17})),
        DcapQuotingEnclaveError,
    ),
    "a quoting enclave of another vendor": (
        lambda: sgx(SIGNER.sgx(header={"vendor": bytes(16)})),
        DcapQuotingEnclaveError,
    ),
    # TDX module.
    "a TDX module of somebody else": (
        lambda: tdx(SIGNER.tdx(td_report(mr_signer_seam=b"m" * 48))),
        DcapModuleError,
    ),
    "a TDX module with attributes": (
        lambda: tdx(SIGNER.tdx(td_report(seam_attributes=1))),
        DcapModuleError,
    ),
    "a TDX module of a version that Intel does not name": (
        lambda: tdx(SIGNER.tdx(td_report(tee_tcb_svn=bytes((5, 9)) + bytes(14)))),
        DcapModuleError,
    ),
    "a TDX module that is too old": (
        lambda: tdx(SIGNER.tdx(td_report(tee_tcb_svn=bytes((4, 1)) + bytes(14)))),
        DcapModuleError,
    ),
    # TCB.
    "a platform below every level": (
        lambda: sgx(
            DcapSigner(platform=Platform(pce_svn=1)).sgx(),
        ),
        DcapTcbError,
    ),
    "a platform whose level is revoked": (
        lambda: tdx(collateral=SIGNER.collateral("tdx", status="Revoked")),
        DcapTcbError,
    ),
    "a quoting enclave whose level is revoked": (
        lambda: tdx(collateral=SIGNER.collateral("tdx", qe_status="Revoked")),
        DcapTcbError,
    ),
    # Attributes.
    "an enclave in debug mode": (
        lambda: sgx(SIGNER.sgx(enclave_report(attributes=0x07))),
        DcapDebugError,
    ),
    "a TD in debug mode": (
        lambda: tdx(SIGNER.tdx(td_report(td_attributes=SEPT_VE_DISABLE | 1))),
        DcapDebugError,
    ),
    "a TD without SEPT_VE_DISABLE": (
        lambda: tdx(SIGNER.tdx(td_report(td_attributes=0))),
        DcapAttributesError,
    ),
    "a TD with reserved attributes": (
        lambda: tdx(SIGNER.tdx(td_report(td_attributes=SEPT_VE_DISABLE | 1 << 9))),
        DcapAttributesError,
    ),
    "a TD with a service TD": (
        lambda: tdx(
            SIGNER.tdx(td_report(tee_tcb_svn2=TEE_TCB_SVN, mr_service_td=b"s" * 48), version=5)
        ),
        DcapAttributesError,
    ),
    # Form of what is signed.
    "TCB info that is none": (
        lambda: sgx(collateral=with_info("{}")),
        MalformedError,
    ),
    "TCB info without levels that can be read": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", tcb_info={"tcbLevels": 1})),
        DcapCollateralError,
    ),
    "a QE identity without levels": (
        lambda: sgx(collateral=SIGNER.collateral("sgx", qe_identity={"tcbLevels": []})),
        DcapCollateralError,
    ),
}


@pytest.mark.parametrize(("attempt", "error"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_authentic_is_refused(
    attempt: Callable[[], object], error: type[HwTrustError]
) -> None:
    """Each cause by its own error, whichever library has found it."""
    with pytest.raises(HwTrustError) as caught:
        attempt()
    assert type(caught.value) is error


# --- the library ---------------------------------------------------------------------


class _Claims:
    def __init__(self, text: str) -> None:
        self._text = text

    def to_json(self) -> str:
        return self._text


def answering(answer: Callable[[], str]) -> type:
    """A verifier of dcap-qvl that answers that, whatever it is asked."""

    class Verifier:
        def __init__(self, root: bytes) -> None:
            assert root == SIGNER.root.der

        def verify_with_policy(self, *_: object) -> _Claims:
            return _Claims(answer())

    return Verifier


def claims_of(quote: bytes, collateral: bytes) -> str:
    """What dcap-qvl itself says of a quote."""
    seconds = int(NOW.timestamp())
    verifier = dcap_qvl.QuoteVerifier(SIGNER.root.der)
    text: str = verifier.verify_with_policy(
        quote,
        dcap_qvl.QuoteCollateralV3.from_json(collateral.decode()),
        seconds,
        dcap_qvl.QuotePolicy.claims_only(seconds),
    ).to_json()
    return text


class PanicException(BaseException):
    """As pyo3 raises it where Rust panics."""


PanicException.__module__ = "pyo3_runtime"


def raising(error: BaseException) -> Callable[[], str]:
    """An answer that is an exception."""

    def answer() -> str:
        raise error

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        raising(PanicException("index out of bounds")),
        raising(TypeError("argument")),
        raising(OverflowError("too large")),
        raising(RuntimeError("?")),
        lambda: "{}",
        lambda: "",
    ],
    ids=["panic", "type", "overflow", "runtime", "other claims", "no claims"],
)
def test_whatever_the_library_does_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], str]
) -> None:
    """A panic in Rust is no Exception: nothing else would catch it."""
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", answering(answer))
    with pytest.raises(DcapVerifierError) as caught:
        sgx()
    assert caught.value.code == "evidence:dcap:verifier"


def test_a_refusal_for_a_reason_that_is_not_known_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A newer library may say something new."""
    verifier = answering(raising(ValueError("Verification failed: the moon is full")))
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", verifier)
    with pytest.raises(DcapError) as caught:
        sgx()
    assert caught.value.code == "evidence:dcap"


def test_who_interrupts_the_program_interrupts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic is caught, and nothing else beside the exceptions."""
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", answering(raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        sgx()


def changed_reading(text: str, kind: str, *path: str) -> str:
    """The claims with one part of the report changed."""
    claims: dict[str, Any] = json.loads(text)
    place = claims["report"][kind]
    for name in path[:-1]:
        place = place[name]
    value = place[path[-1]]
    place[path[-1]] = value + 1 if isinstance(value, int) else "01" + value[2:]
    return json.dumps(claims)


TD_FIELDS = (
    *("mr_td", "mr_seam", "mr_signer_seam", "mr_config_id", "mr_owner", "mr_owner_config"),
    *("rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "td_attributes", "seam_attributes", "xfam"),
    *("report_data", "tee_tcb_svn"),
)
READINGS = [
    *((tdx, TDX, FOR_TDX, "TD10", (name,)) for name in TD_FIELDS),
    *((tdx, TDX_15, FOR_TDX, "TD15", ("base", name)) for name in TD_FIELDS),
    *((tdx, TDX_15, FOR_TDX, "TD15", (name,)) for name in ("tee_tcb_svn2", "mr_service_td")),
    *(
        (sgx, SGX, FOR_SGX, "SgxEnclave", (name,))
        for name in (
            *("mr_enclave", "mr_signer", "report_data", "attributes", "cpu_svn"),
            *("isv_prod_id", "isv_svn", "misc_select", "reserved1", "reserved3", "reserved4"),
        )
    ),
]


@pytest.mark.parametrize(
    ("verify", "quote", "collateral", "kind", "path"),
    READINGS,
    ids=[f"{kind} {path[-1]}" for *_, kind, path in READINGS],
)
def test_a_report_that_the_library_reads_otherwise_is_refused(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch,
    verify: Callable[..., object],
    quote: bytes,
    collateral: bytes,
    kind: str,
    path: tuple[str, ...],
) -> None:
    """Two readings of one quote: one of them is not what was signed."""
    text = changed_reading(claims_of(quote, collateral), kind, *path)
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", answering(lambda: text))
    with pytest.raises(DcapVerifierError):
        verify(quote, collateral)


@pytest.mark.parametrize("report", [{}, {"TD10": {}}, {"SgxEnclave": {}, "TD10": {}}])
def test_a_report_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, report: dict[str, object]
) -> None:
    """The same for none, and for two of them."""
    claims = json.loads(claims_of(SGX, FOR_SGX))
    read = claims["report"]["SgxEnclave"]
    text = json.dumps(claims | {"report": dict.fromkeys(report, read)})
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", answering(lambda: text))
    with pytest.raises(DcapVerifierError):
        sgx()


def test_a_time_that_no_clock_shows_is_refused() -> None:
    """Not handed on to the library."""
    with pytest.raises(DcapExpiredError):
        sgx(now=datetime.min.replace(tzinfo=NOW.tzinfo))


def test_a_time_without_a_zone_is_the_callers_mistake() -> None:
    """It could be that of any place, and is not taken for a fault of the quote."""
    with pytest.raises(TypeError):
        sgx(now=NOW.replace(tzinfo=None))


def test_what_the_parser_of_certificates_warns_of_is_refused_without_a_warning() -> None:
    """A country of more than two letters, say; warnings are errors in tests."""
    der = SIGNER.pck.der.replace(b"\x06\x03\x55\x04\x0a\x0c", b"\x06\x03\x55\x04\x06\x0c")
    assert der != SIGNER.pck.der
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n"
    chain = pem % base64.encodebytes(der) + SIGNER.ca.pem + SIGNER.root.pem
    with pytest.raises(DcapChainError):
        sgx(SIGNER.sgx(chain=chain))


def test_the_library_is_not_asked_about_what_is_refused_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets nothing that hwtrust has not read itself."""
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", answering(raising(AssertionError())))
    signer = replace(SIGNER, tcb_name="Intel SGX Something Else")
    attempts: tuple[Callable[[], object], ...] = (
        lambda: sgx(SIGNER.sgx(certification=3)),
        lambda: sgx(SIGNER.sgx(chain=b"")),
        lambda: sgx(now=NEXT + DAY),
        lambda: by(signer),
        lambda: sgx(collateral=with_info("{}")),
    )
    for attempt in attempts:
        with pytest.raises(HwTrustError) as caught:
            attempt()
        assert not isinstance(caught.value, DcapVerifierError)
