"""Errors of quotes by Intel's TDX and SGX, and of the collateral that they are verified with."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError


class DcapError(EvidenceError):
    """A TDX or SGX quote was refused for a reason that has no class of its own."""

    code = "evidence:dcap"


class DcapSignatureError(DcapError):
    """A quote, or the report of its quoting enclave, is not signed as it should be."""

    code = "evidence:dcap:signature"


class DcapReportDataError(DcapError):
    """An authentic quote answers another challenge, or was made for another purpose."""

    code = "evidence:dcap:report-data"
    hint = "ask the enclave or the virtual machine for a quote over the challenge that you sent"


class DcapChainError(DcapError):
    """The certificates of a quote or of its collateral do not lead to the trusted root."""

    code = "evidence:dcap:chain"


class DcapRevokedError(DcapError):
    """A certificate of a quote or of its collateral is revoked."""

    code = "evidence:dcap:revoked"


class DcapCertificationError(DcapError):
    """A quote does not carry the certificates of its platform."""

    code = "evidence:dcap:certification"
    hint = "let the quote provider of the platform put the PCK certificate chain into its quotes"


class DcapCollateralError(DcapError):
    """The collateral is not what Intel has signed."""

    code = "evidence:dcap:collateral"


class DcapCollateralAbsentError(DcapError):
    """There is no collateral for the platform that a quote comes from."""

    code = "evidence:dcap:collateral-absent"
    hint = "fetch the collateral of the FMSPC that the message names, and give it along"


class DcapExpiredError(DcapError):
    """Collateral, a revocation list or a certificate is not valid at the time of verification."""

    code = "evidence:dcap:expired"
    hint = "fetch the collateral of the platform again; Intel issues it anew every month"


class DcapPlatformError(DcapError):
    """The collateral is that of another kind of platform than the quote's."""

    code = "evidence:dcap:platform"
    hint = "fetch the collateral for the FMSPC and the TEE of this quote"


class DcapQuotingEnclaveError(DcapError):
    """The enclave that signed a quote is not Intel's quoting enclave."""

    code = "evidence:dcap:quoting-enclave"


class DcapModuleError(DcapError):
    """The TDX module is not one of those that Intel names in the collateral."""

    code = "evidence:dcap:module"


class DcapTcbError(DcapError):
    """The platform is below every TCB level that Intel names, or its level is revoked."""

    code = "evidence:dcap:tcb"
    hint = "update firmware and microcode of the platform"


class DcapDebugError(DcapError):
    """The host can read and change the enclave or the virtual machine: it is in debug mode."""

    code = "evidence:dcap:debug"


class DcapAttributesError(DcapError):
    """A virtual machine has attributes with which no quote of it is believed."""

    code = "evidence:dcap:attributes"
    hint = "start the virtual machine with SEPT_VE_DISABLE and without a service TD"


class DcapVerifierError(DcapError):
    """The library that verifies quotes failed, or read one in another way than hwtrust."""

    code = "evidence:dcap:verifier"
