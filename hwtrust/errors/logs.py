"""Errors of the event logs that firmware and kernel write."""

from __future__ import annotations

from hwtrust.errors.device import ConfigError
from hwtrust.errors.evidence import EvidenceError, LogError, WireError


class FirmwareLogSizeError(WireError):
    """A firmware event log is larger than any that a machine writes."""

    code = "wire:firmware-log:size"
    hint = "check that the file is binary_bios_measurements, whole and nothing else"


class FirmwareKindError(EvidenceError):
    """A confidential-computing log is offered where a TPM's is asked for, or the reverse."""

    code = "evidence:firmware-log:kind"
    hint = "a log with measurement registers (CCEL) is replayed into RTMRs, one with PCRs into PCRs"


class FirmwareBankError(EvidenceError):
    """The log or the quote has nothing of the bank that is asked for."""

    code = "evidence:firmware-log:bank"
    hint = "quote a bank that the firmware's log has digests of"


class FirmwarePcrError(EvidenceError):
    """A register that the log is to explain is left out of what was quoted."""

    code = "evidence:firmware-log:pcr"
    hint = "quote every PCR that the policy speaks of"


class FirmwareReplayError(LogError):
    """The firmware's log does not come to the quoted values: changed, or cut short."""

    code = "evidence:firmware-log:replay"
    hint = "send the whole log of this boot, and only PCRs that nothing else extends"


class FirmwareUnloggedError(LogError):
    """A register was extended, and the firmware's log has no event for it."""

    code = "evidence:firmware-log:unlogged"
    hint = "send the whole log of this boot, and only PCRs that nothing else extends"


class FirmwareLocalityError(LogError):
    """PCR 0 started at another locality than the log says."""

    code = "evidence:firmware-log:locality"


class FirmwareOrderError(LogError):
    """No one moment of the boot explains all quoted values together."""

    code = "evidence:firmware-log:order"


class ImaReplayError(LogError):
    """The IMA log does not explain the quoted PCR: cut short, changed, or of another boot."""

    code = "evidence:ima-log:replay"
    hint = "send the log whole, or from the entry that the verifier asks for, read after the quote"


class ImaStateError(EvidenceError):
    """What was verified of an IMA log before is of another PCR, bank or size."""

    code = "evidence:ima-log:state"
    hint = "verify the whole log of this boot anew, without a state"


class ImaRulesError(ConfigError):
    """Rules for IMA logs, or what they are made from, are not of their form."""

    code = "rules:ima"
