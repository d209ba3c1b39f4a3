"""Errors of dynamic roots: not accepted, or not released by the TPM."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class RootError(HwTrustError):
    """A dynamic root is refused."""

    code = "root"


class RootDeviceError(RootError):
    """The root was made for another device or another storage key."""

    code = "root:device:mismatch"


class RootEpochError(RootError):
    """The root's epoch is not the one that must come next."""

    code = "root:epoch:mismatch"


class RootReleaseError(RootError):
    """The root is for a release that this device does not run."""

    code = "root:release:mismatch"


class RootTimeError(RootError):
    """The root is not valid yet, or no longer."""

    code = "root:time:invalid"


class RootNameError(RootError):
    """The sealed object is not the one that the root's metadata names."""

    code = "root:name:mismatch"


class RootObjectError(RootError):
    """The sealed object could be opened by something else than an approval."""

    code = "root:object:unsafe"


class RootClockError(RootError):
    """A signed time is for another device, or answers another challenge."""

    code = "root:clock:mismatch"


class RootExpiredError(RootError):
    """The TPM's clock has passed the root's not_after: the TPM will not release it."""

    code = "root:expired"
    hint = "attest to get a new approval or the next root"


class RootRevokedError(RootError):
    """The epoch counter has passed the root's epoch: the TPM will never release it again."""

    code = "root:revoked"
    hint = "attest to get the current root"


class RootStateError(RootError):
    """The measured state is not one that the root is approved for."""

    code = "root:state:unapproved"
    hint = "hwtrust eventlog shows what was measured; attest or reboot to recover"


class RootApprovalError(RootError):
    """The approval is not signed by the policy key for this root."""

    code = "root:approval:invalid"


class RootMissingError(RootError):
    """The device holds no root that could be opened."""

    code = "root:missing"
    hint = "enrol again: hwtrust enrol --again --token-file FILE"
