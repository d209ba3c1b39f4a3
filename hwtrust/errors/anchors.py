"""Errors of enclaves and confidential VMs as anchors, seen from inside."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class AnchorError(HwTrustError):
    """A hardware anchor cannot do what it was asked."""

    code = "anchor"


class AnchorMissingError(AnchorError):
    """This machine has no such anchor, or its kernel does not show it."""

    code = "anchor:none"
    hint = "hwtrust anchors shows what this machine has; a kernel module may be missing"


class AnchorPermissionError(AnchorError):
    """The anchor's files may not be opened by this user."""

    code = "anchor:permission"
    hint = "run as root, or give the user access to the device file"


class AnchorProviderError(AnchorError):
    """Nothing answers behind the kernel's interface, or another provider than was expected."""

    code = "anchor:provider"
    hint = "load the guest driver of the platform: sev-guest, tdx-guest or arm-cca-guest"


class AnchorSoftwareError(AnchorError):
    """The anchor is there, but the software that hwtrust needs for it is not installed."""

    code = "anchor:software"


class AnchorBusyError(AnchorError):
    """The anchor stayed busy for all tries."""

    code = "anchor:busy"
    hint = "try again; the host may limit how often reports are made"


class AnchorIoError(AnchorError):
    """Reading or writing the anchor's files failed."""

    code = "anchor:io"


class AnchorRequestError(AnchorError):
    """The anchor does not take the request: a size, a value or an order that it does not allow."""

    code = "anchor:request"


class ReportDataError(AnchorRequestError):
    """The report data does not have the size that this kind of evidence binds."""

    code = "anchor:request:report-data"


class AnchorRegisterError(AnchorRequestError):
    """There is no such measurement register, or it cannot be extended."""

    code = "anchor:register"


class RegisterLockedError(AnchorRegisterError):
    """The measurement register is locked until the next start."""

    code = "anchor:register:locked"


class AnchorStaleError(AnchorError):
    """The evidence does not answer this request: it was lost, or somebody else asked in between."""

    code = "anchor:stale"
    hint = "try again; if it stays so, another program uses the same interface"


class AnchorResponseError(AnchorError):
    """The anchor's answer does not have the form that it should have."""

    code = "anchor:response"


class EmptyReportError(AnchorResponseError):
    """The anchor reported success and gave no evidence."""

    code = "anchor:response:empty"
    hint = "the host's quoting service may be down"


class AnchorFirmwareError(AnchorError):
    """The secure firmware refused; `data["status"]` holds what it said."""

    code = "anchor:firmware"


class AnchorHostError(AnchorError):
    """The host refused to pass the request on; `data["vmm_error"]` holds what it said."""

    code = "anchor:host"


class DerivedKeyError(AnchorFirmwareError):
    """The firmware derived no key, or gave one of zeros."""

    code = "anchor:key"


class SealedBlobError(AnchorError):
    """A sealed blob is not one that this anchor opens."""

    code = "anchor:blob"


class SealedBlobFormError(SealedBlobError):
    """The bytes are no sealed blob, or one of another version or anchor."""

    code = "anchor:blob:malformed"


class SealedBlobWeakError(SealedBlobError):
    """A blob's key would depend on less than hwtrust asks for: others can have made it."""

    code = "anchor:blob:weak"


class SealedBlobTcbError(SealedBlobError):
    """A blob was sealed under firmware that this machine cannot derive the key of."""

    code = "anchor:blob:tcb"
    hint = "it was sealed on another machine, or under other firmware: obtain the secret anew"


class SealedBlobKeyError(SealedBlobError):
    """A blob does not open: it was changed, or sealed in another state or on another machine."""

    code = "anchor:blob:key"
    hint = "only the same software on the same machine opens it: obtain the secret anew"
