"""Errors of AMD SEV-SNP evidence: report, certificates, and what binds them."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError


class SnpError(EvidenceError):
    """An SEV-SNP report is not authentic; nothing that it says may be believed."""

    code = "evidence:snp"


class SnpSignerError(SnpError):
    """The report names no key that signs reports: it was not signed by the AMD-SP."""

    code = "evidence:snp:signer"
    hint = "ask the guest for a report that is signed by the VCEK or the VLEK"


class SnpSignatureError(SnpError):
    """The report's signature does not verify under the VCEK or VLEK."""

    code = "evidence:snp:signature"
    hint = "check that report and certificate are of the same chip, firmware and host"


class SnpRootError(SnpError):
    """None of the certificates is a root (ARK) that is trusted."""

    code = "evidence:snp:root"
    hint = "send the ARK of the processor's product with the evidence, in its present form"


class SnpChainError(SnpError):
    """The certificates make no chain from the report's key to the root."""

    code = "evidence:snp:chain"
    hint = "send the VCEK with its ASK, or the VLEK with its ASVK, and the ARK of the product"


class SnpExpiredError(SnpError):
    """A certificate of the chain is not valid now."""

    code = "evidence:snp:expired"
    hint = "fetch the certificate anew from AMD's key distribution service"


class SnpRevokedError(SnpError):
    """A certificate of the chain is revoked."""

    code = "evidence:snp:revoked"


class SnpCrlError(SnpError):
    """A revocation list of AMD cannot be used, and it may be the one that matters."""

    code = "evidence:snp:crl"
    hint = "fetch the revocation list anew from AMD's key distribution service"


class SnpProductError(SnpError):
    """Report, certificate and root are not of the same line of processors."""

    code = "evidence:snp:product"


class SnpTcbError(SnpError):
    """The certificate is for another TCB version than the one that the report states."""

    code = "evidence:snp:tcb"
    hint = "fetch the certificate for the report's REPORTED_TCB"


class SnpChipError(SnpError):
    """The certificate is for another chip than the one that the report states."""

    code = "evidence:snp:chip"
    hint = "fetch the certificate for the report's CHIP_ID"


class SnpMaskedChipError(SnpError):
    """The host hides which chip made the report."""

    code = "evidence:snp:chip:masked"
    hint = "have the host show the chip id, or take reports of any chip and say so"
