"""The kinds of evidence by which devices are known."""

from __future__ import annotations

from enum import StrEnum


class DeviceKind(StrEnum):
    """A TPM, or what an enclave's evidence is (`hwtrust.wire.enclave.EnclaveKind`)."""

    TPM = "tpm"
    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    CCA = "cca"
    AZURE = "azure"
