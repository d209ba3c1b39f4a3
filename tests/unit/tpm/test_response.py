"""Response codes become the error that a caller can act on."""

from __future__ import annotations

import errno

import pytest
from tpm2_pytss import TSS2_Exception

from hwtrust.errors import TpmError
from hwtrust.tpm.response import (
    FMT1_HANDLE,
    FMT1_POLICY_FAIL,
    RC_NV_RATE,
    RC_PCR_CHANGED,
    base_code,
    breaks_context,
    is_parameter_refusal,
    translate,
    translate_open,
)

TRANSLATIONS: dict[str, tuple[int, str]] = {
    "a refused parameter": (0x1D5, "tpm:command:failed"),
    "a refused session": (0x98E, "tpm:command:failed"),
    "a refused handle": (0x18B, "tpm:command:failed"),
    "a policy that did not hold": (0x126, "tpm:command:failed"),
    "a PCR that moved": (0x128, "tpm:command:failed"),
    "NV writes too fast": (0x920, "tpm:command:failed"),
    "dictionary-attack lockout": (0x921, "tpm:lockout"),
    "failure mode": (0x101, "tpm:failure-mode"),
    "a TPM 1.2": (0x01E, "tpm:version"),
    "lockout, through a resource manager": (0x000C_0921, "tpm:lockout"),
    "ESAPI: response HMAC wrong": (0x0007_001B, "tpm:response:tampered"),
    "ESAPI: response malformed": (0x0007_0011, "tpm:response:tampered"),
    "SAPI: response malformed": (0x0008_0011, "tpm:response:tampered"),
    "SAPI: response too short": (0x0008_0013, "tpm:response:tampered"),
    "SAPI: no sessions in the response": (0x0008_0007, "tpm:response:tampered"),
    "marshalling: too few bytes": (0x0009_0006, "tpm:response:tampered"),
    "TCTI: response malformed": (0x000A_0011, "tpm:response:tampered"),
    "TCTI: input/output error": (0x000A_000A, "tpm:transport"),
    "TCTI: no connection": (0x000A_0008, "tpm:transport"),
    "TCTI: try again": (0x000A_0009, "tpm:transport"),
    "ESAPI: a bad handle": (0x0007_0018, "tpm:command:failed"),
}


@pytest.mark.parametrize("case", TRANSLATIONS)
def test_a_response_code_is_translated(case: str) -> None:
    """Each code ends in the error that names its cause, with command and code as data."""
    rc, code = TRANSLATIONS[case]
    error = translate(TSS2_Exception(rc), "TPM2_Unseal")
    assert isinstance(error, TpmError)
    assert error.code == code
    assert error.data == {"command": "TPM2_Unseal", "rc": rc}


BASES: dict[str, tuple[int, int]] = {
    "parameter 1": (0x1CB, FMT1_HANDLE),
    "handle 1": (0x18B, FMT1_HANDLE),
    "session 1": (0x99D, FMT1_POLICY_FAIL),
    "session 7": (0xF9D, FMT1_POLICY_FAIL),
    "a code of format zero": (RC_PCR_CHANGED, RC_PCR_CHANGED),
    "a warning": (RC_NV_RATE, RC_NV_RATE),
    "another layer's": (0x0007_001B, 0x0007_001B),
}


@pytest.mark.parametrize("case", BASES)
def test_a_base_code_forgets_what_it_points_to(case: str) -> None:
    """The cause is the same whichever handle, parameter or session has it."""
    rc, base = BASES[case]
    assert base_code(rc) == base


@pytest.mark.parametrize(
    ("rc", "refusal"),
    [(0x18B, True), (0x1C4, True), (0x99D, True), (0x128, False), (0x922, False), (0x7001B, False)],
)
def test_only_the_tpms_word_on_a_parameter_is_a_refusal_of_one(rc: int, refusal: bool) -> None:
    """A TPM that is busy, or an interposer's code, has not judged a parameter."""
    assert is_parameter_refusal(rc) is refusal
    assert not is_parameter_refusal(None)


@pytest.mark.parametrize(
    ("rc", "broken"),
    [
        (0x18B, False),
        (0x921, False),
        (0x000B_0143, False),
        (0x000C_0921, False),
        (0x0007_001B, True),
        (0x0008_0007, True),
        (0x0009_0006, True),
        (0x000A_000A, True),
        (0x0100_0000, True),
    ],
)
def test_a_code_that_no_tpm_sends_breaks_the_context(rc: int, broken: bool) -> None:
    """What neither TPM nor resource manager has said leaves ESAPI in an unknown state."""
    assert breaks_context(rc) is broken


OPENING: dict[str, tuple[int, str]] = {
    "not allowed": (errno.EACCES, "tpm:permission"),
    "not permitted": (errno.EPERM, "tpm:permission"),
    "in use": (errno.EBUSY, "tpm:busy"),
    "gone": (errno.ENODEV, "tpm:gone"),
    "nothing behind it": (errno.ENXIO, "tpm:gone"),
    "broken": (errno.EIO, "tpm:transport"),
}


@pytest.mark.parametrize("case", OPENING)
def test_a_device_file_that_cannot_be_opened_says_why(case: str) -> None:
    """The cause is in the code, path and group in the data."""
    number, code = OPENING[case]
    error = translate_open(OSError(number, "said"), "/dev/tpmrm0", "tss")
    assert error.code == code
    assert error.data["path"] == "/dev/tpmrm0"
    if code == "tpm:permission":
        assert error.data["group"] == "tss"
