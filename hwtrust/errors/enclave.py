"""Errors of an enclave as a device: what stands in the way of its start."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class EnclaveError(HwTrustError):
    """An enclave cannot be started, or not go on."""

    code = "enclave"


class EnclaveAnchorError(EnclaveError):
    """This machine has no enclave, or none that makes evidence for a backend."""

    code = "enclave:anchor"
    hint = "hwtrust anchors shows what this machine has, and why something cannot be used"


class EnclaveSealedError(EnclaveError):
    """What the enclave had sealed does not open any more, or is not what it writes."""

    code = "enclave:sealed"
    hint = "start(again=True) sets it aside and enrols as a new device"


class EnclaveRegisterError(EnclaveError):
    """The measurement register holds what the event log does not explain."""

    code = "enclave:register:conflict"
    hint = "another program extends it, or the log is gone: choose another register, or restart"


class EnclaveUntrustedError(EnclaveError):
    """The backend does not trust the enclave as it is; `data["finding"]` is its first reason."""

    code = "enclave:untrusted"
