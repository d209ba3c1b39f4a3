"""Errors of the test fixtures."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class SoftwareTpmError(HwTrustError):
    """A software TPM cannot be started, or did not do what a test's setup asked of it."""

    code = "testing:swtpm"
    hint = "the message quotes swtpm's log; Debian's package is swtpm"


class FaultPlanError(HwTrustError):
    """A fault cannot be injected as it was planned."""

    code = "testing:fault-plan"


class HardwareTestError(HwTrustError):
    """Tests cannot use the TPM that they were given, or have not left it as it was."""

    code = "testing:hardware"


class HardwareConsentError(HardwareTestError):
    """Nobody has said that the tests may use this TPM; nothing was sent to it."""

    code = "testing:hardware:consent"
    hint = "run the tests in a terminal, or set HWTRUST_TEST_HARDWARE_OK to the same as the TCTI"


class HardwareUnfitError(HardwareTestError):
    """The tests cannot run on this TPM as it is set up; nothing in it was changed."""

    code = "testing:hardware:unfit"


class HardwareBusyError(HardwareTestError):
    """Another run of the tests has this TPM; nothing was sent to it."""

    code = "testing:hardware:busy"
    hint = "wait for its end; with pytest-xdist, run without -n"


class HardwareOccupiedError(HardwareTestError):
    """Something lies where the tests put their things; nothing in the TPM was changed."""

    code = "testing:hardware:occupied"
    hint = "if nobody needs it, remove it with tpm2-tools: docs/testing-on-hardware.md"


class HardwareLeftoverError(HardwareTestError):
    """The TPM is not as it was before the tests."""

    code = "testing:hardware:leftover"
