"""From TSS2 response codes to the error tree.

A response code says which layer refused and why (Part 2 §6.6, TSS 2.0 Overview
§7). Here the few causes that a caller can act on get a class of their own; all
others are a `TpmError` whose message names the command and the code.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from hwtrust.errors import (
    TpmBusyError,
    TpmError,
    TpmFailureModeError,
    TpmGoneError,
    TpmLockoutError,
    TpmPermissionError,
    TpmTamperedError,
    TpmTransportError,
    TpmVersionError,
)

if TYPE_CHECKING:
    from hwtrust.tpm.stack import TSS2_Exception

RC_FAILURE = 0x101
RC_POLICY = 0x126
RC_PCR_CHANGED = 0x128
RC_COMMAND_CODE = 0x143
RC_NV_UNINITIALIZED = 0x14A
RC_NV_DEFINED = 0x14C
RC_RETRY, RC_YIELDED, RC_TESTING, RC_NV_RATE = 0x922, 0x908, 0x90A, 0x920
RC_LOCKOUT = 0x921
RC_TPM12_BADTAG = 0x01E

FMT1_VALUE = 0x084
FMT1_AUTH_FAIL = 0x08E
FMT1_HANDLE = 0x08B
FMT1_SIGNATURE = 0x09B
FMT1_POLICY_FAIL = 0x09D
FMT1_INTEGRITY = 0x09F
FMT1_TICKET = 0x0A0
FMT1_BAD_AUTH = 0x0A2

_LAYER_ESYS, _LAYER_SYS, _LAYER_MU, _LAYER_TCTI = 7, 8, 9, 10
_TAMPERED = {
    0x011,  # TSS2_BASE_RC_MALFORMED_RESPONSE
    0x013,  # TSS2_BASE_RC_INSUFFICIENT_RESPONSE
    0x01B,  # TSS2_BASE_RC_RSP_AUTH_FAILED
}
_RESPONSE_LAYERS = {_LAYER_ESYS, _LAYER_SYS, _LAYER_TCTI}
_GENERAL_FAILURE, _BAD_SEQUENCE = 0x001, 0x007
_NO_CONNECTION, _IO_ERROR = 0x008, 0x00A
_NO_DEVICE = {errno.ENODEV, errno.ENXIO}
SYS_GENERAL_FAILURE = _LAYER_SYS << 16 | _GENERAL_FAILURE
"""What the system API makes of the tag of a TPM 1.2's response, among others."""
_FORMAT_ONE = 0x080
_FROM_TPM = {0, 11, 12}  # the TPM itself; a resource manager; the TPM through one


def base_code(rc: int) -> int:
    """A TPM response code without the handle, parameter or session that it points to."""
    if rc >> 16:
        return rc
    return rc & 0x0BF if rc & _FORMAT_ONE else rc


def is_parameter_refusal(rc: object) -> bool:
    """Whether `rc` is the TPM's word that it does not take a handle, parameter or session."""
    return isinstance(rc, int) and not rc >> 16 and bool(rc & _FORMAT_ONE)


def breaks_context(rc: int) -> bool:
    """Whether an ESAPI context is of no use after this code: the TPM did not send it."""
    return rc >> 16 not in _FROM_TPM


def nothing_answers(rc: int) -> bool:
    """Whether a TCTI that gave this code when it was opened is right, and only its TPM missing."""
    return rc >> 16 == _LAYER_TCTI and rc & 0xFFFF in {_NO_CONNECTION, _IO_ERROR}


def translate(error: TSS2_Exception, command: str, *, gone: bool = False) -> TpmError:
    """The error of the tree that `error`, raised by `command`, stands for.

    `gone`: the TPM cannot be reached by a new connection either.
    """
    rc = int(error.rc)
    layer, code = rc >> 16 & 0xFF, rc & 0xFFFF
    message = f"{command} failed: {error}"
    # The system API asks for the response's sessions, and there are none.
    stripped = layer == _LAYER_SYS and code == _BAD_SEQUENCE
    altered = layer in _RESPONSE_LAYERS and code in _TAMPERED
    if stripped or altered or layer == _LAYER_MU:
        tampered = f"{command}: the response was not sent by the TPM as it arrived"
        return TpmTamperedError(tampered, command=command, rc=rc)
    if layer == _LAYER_TCTI:
        kind = TpmGoneError if gone else TpmTransportError
        return kind(message, command=command, rc=rc)
    special: dict[int, type[TpmError]] = {
        RC_FAILURE: TpmFailureModeError,
        RC_LOCKOUT: TpmLockoutError,
        RC_TPM12_BADTAG: TpmVersionError,
    }
    return special.get(code, TpmError)(message, command=command, rc=rc)


def translate_open(error: OSError, path: str, group: str) -> TpmError:
    """Why the device file at `path`, which `group` may open, cannot be opened."""
    if isinstance(error, PermissionError):
        message = f"{path} may not be opened by this user: members of group {group} may"
        return TpmPermissionError(message, path=path, group=group)
    if error.errno == errno.EBUSY:
        return TpmBusyError(f"{path} is in use by another program", path=path)
    if error.errno in _NO_DEVICE:
        return TpmGoneError(f"there is no TPM behind {path} any more", path=path)
    return TpmTransportError(f"{path} cannot be opened: {error.strerror}", path=path)
