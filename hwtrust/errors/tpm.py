"""Errors of the TPM: missing, busy, locked out, refusing."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class TpmError(HwTrustError):
    """The TPM refused a command; `data["rc"]` holds the response code."""

    code = "tpm:command:failed"


class TpmNotFoundError(TpmError):
    """There is no TPM on this machine."""

    code = "tpm:none"
    hint = "enable the TPM in the firmware's setup, or name a TCTI such as swtpm:path=SOCKET"


class TpmPermissionError(TpmError):
    """The TPM's device file may not be opened by this user."""

    code = "tpm:permission"


class TpmBusyError(TpmError):
    """Another program holds the TPM."""

    code = "tpm:busy"
    hint = "use the resource-managed device /dev/tpmrm0, or stop the other program"


class TpmVersionError(TpmError):
    """The TPM is not a TPM 2.0."""

    code = "tpm:version"
    hint = "hwtrust needs a TPM 2.0; some firmware can switch from 1.2"


class TpmCurveError(TpmError):
    """The TPM has no P-256, by which a backend's approvals are signed: no root can be in it."""

    code = "tpm:curve:missing"
    hint = "use a TPM that has NIST P-256, which every TPM by TCG's PC Client profile has"


class TpmFailureModeError(TpmError):
    """The TPM is in failure mode and answers nothing but its test result."""

    code = "tpm:failure-mode"
    hint = "power the machine off and on; if it stays so, the TPM is broken"


class TpmLockoutError(TpmError):
    """The TPM is in dictionary-attack lockout."""

    code = "tpm:lockout"
    hint = "wait for the recovery time, or reset it with the lockout password"


class TpmOwnerAuthError(TpmError):
    """The owner hierarchy has a password that was not given, or a wrong one was."""

    code = "tpm:owner:auth"
    hint = "give the owner password by a systemd credential or the owner_auth callback"


class TpmTransportError(TpmError):
    """The connection to the TPM broke; what the TPM did is not known."""

    code = "tpm:transport"


class TpmGoneError(TpmTransportError):
    """Nothing answers where the TPM is, or was: it was unplugged, or its program has ended."""

    code = "tpm:gone"
    hint = "plug the TPM in again, or start the program that it is"


class TpmResetError(TpmTransportError):
    """The TPM was reset under an open device: it was away, and what it measured is forgotten."""

    code = "tpm:reset"
    hint = "open the device anew, and load it"


class TpmTamperedError(TpmError):
    """A response's HMAC is wrong: something between the TPM and this program changed it."""

    code = "tpm:response:tampered"


class TpmPcrConflictError(TpmError):
    """The PCR holds what hwtrust did not measure: another program uses it."""

    code = "tpm:pcr:conflict"
    hint = "find the other user of the PCR, or run hwtrust init again to pick a free one"


class TpmBankError(TpmError):
    """The SHA-256 bank is not there, or is not extended."""

    code = "tpm:bank:unusable"
    hint = "allocate the SHA-256 bank: tpm2_pcrallocate sha256:all"


class TpmObjectConflictError(TpmError):
    """A persistent handle or NV index that hwtrust would use holds something else."""

    code = "tpm:object:conflict"
    hint = "choose other handles in the configuration"
