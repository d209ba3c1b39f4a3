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
