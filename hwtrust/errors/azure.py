"""Errors of the composite of a TEE report and a vTPM quote, as Azure's paravisor makes it."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError, SignatureError, StaleQuoteError


class AzureError(EvidenceError):
    """The parts of a vTPM's evidence do not belong together."""

    code = "azure"


class AzureRuntimeDataError(AzureError):
    """The TEE's report vouches for other runtime data than the one beside it."""

    code = "azure:runtime-data:mismatch"
    hint = "send the HCL report as it is in the NV index, with the TEE quote that was made of it"


class AzureKeyError(AzureError):
    """The runtime data name no usable attestation key of the vTPM."""

    code = "azure:key:absent"


class AzureQuoteError(SignatureError):
    """The quote was not signed by the attestation key that the TEE's report vouches for."""

    code = "azure:quote:signature"
    hint = "send the quote and the HCL report of the same virtual machine"


class AzureTeeError(AzureError):
    """The report is of another kind of TEE than the collateral that is given for it."""

    code = "azure:tee:mismatch"
    hint = "verify an SNP report with its VCEK, a TDX report with a TD quote and its collateral"


class AzureVmplError(AzureError):
    """The guest, and not the paravisor below it, had the SNP report made."""

    code = "azure:vmpl"
    hint = "send the HCL report of the NV index, and no report that the guest asked for itself"


class AzureUserDataError(StaleQuoteError):
    """The TEE's report binds other user data than those that were asked for."""

    code = "azure:user-data:mismatch"
    hint = "write the user data to the vTPM's NV index and read the HCL report again"
